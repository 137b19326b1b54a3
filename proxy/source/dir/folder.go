package dir

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// racy is how old a file's time of change must be for the time to prove that it has not changed since it was read: file
// systems count time in steps, of up to two seconds on FAT.
const racy = 2 * time.Second

// folder is what is known of the files in a directory.
type folder struct {
	dir   string
	node  string
	grace time.Duration // how long a file must have been empty before that counts, see read
	files map[string]*file
	held  bool // a file is empty, but not yet for that long
}

// file is one file as last read.
type file struct {
	info   fs.FileInfo // before it was read; nil if it is to be read again in any case
	readAt time.Time
	sum    [sha256.Size]byte
	held   bool
	content
}

// manifest reports whether a file name is one that is read. Hidden files are not: editors keep their own copies in them, and a
// mounted ConfigMap has its files a second time in the hidden folders "..data" and "..2026_...".
func manifest(name string) bool {
	if strings.HasPrefix(name, ".") {
		return false
	}
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// refresh reads the files that changed, as far as of interest, and forgets those that are gone. If the directory itself cannot
// be listed, everything stays as it was.
func (f *folder) refresh(ctx context.Context, of func(name string) interest) error {
	list, err := os.ReadDir(f.dir)
	if err != nil {
		return err
	}
	files := make(map[string]*file, len(list))
	var mu sync.Mutex // guards files
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, item := range list {
		name := item.Name()
		if !manifest(name) || item.IsDir() || ctx.Err() != nil {
			continue
		}
		last, interest := f.files[name], of(name)
		group.Go(func() error {
			if next := f.read(name, last, interest); next != nil {
				mu.Lock()
				defer mu.Unlock()
				files[name] = next
			}
			return nil
		})
	}
	_ = group.Wait() // the functions report errors in the file that they return
	if err := ctx.Err(); err != nil {
		return err // not all files were looked at
	}
	f.files, f.held = files, false
	for _, file := range files {
		f.held = f.held || file.held
	}
	return nil
}

// read returns a file as it is now; last is how it was, nil if it is new. It returns nil if there is no such file (any more).
func (f *folder) read(name string, last *file, interest interest) *file {
	if interest == leave {
		return last
	}
	path := filepath.Join(f.dir, name)
	if last == nil {
		last = &file{}
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && gone(path):
		return nil
	case err != nil:
		return last.unreadable(name, err)
	case info.IsDir():
		return nil // a link to a folder
	case !info.Mode().IsRegular():
		return last.unreadable(name, fmt.Errorf("it is not a regular file but %s", info.Mode().Type()))
	case interest == look && last.same(info):
		return last
	}
	readAt := time.Now()
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && gone(path) {
		return nil
	}
	if err != nil {
		return last.unreadable(name, err)
	}
	if len(data) == 0 && len(last.entries) > 0 && f.justEmptied(path) {
		return &file{held: true, content: last.content}
	}
	return last.next(name, data, info, readAt, f.node)
}

// justEmptied reports whether an empty file became so a moment ago. Whoever writes a file in place empties it first, and may be
// slow to go on; its objects are not gone yet.
func (f *folder) justEmptied(path string) bool {
	info, err := os.Stat(path) // not the one from before it was read, which may be of the time before it was emptied
	if err != nil {
		return true // the next look tells
	}
	age := time.Since(info.ModTime())
	return age >= 0 && age < f.grace
}

// gone reports whether a path does not exist, not even as a symbolic link to nowhere.
func gone(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// same reports whether the file is certainly the one that was read.
func (l *file) same(info fs.FileInfo) bool {
	return l.info != nil && os.SameFile(l.info, info) && l.info.Size() == info.Size() &&
		l.info.ModTime().Equal(info.ModTime()) && l.readAt.Sub(info.ModTime()) > racy
}

// unreadable returns the file with its objects kept and the reason why it cannot be read.
func (l *file) unreadable(name string, err error) *file {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err // the path is said already
	}
	p := Problem{File: name, Severity: Error, Reason: fmt.Sprintf("cannot be read: %v", err)}
	return &file{content: advance(l.content, content{problems: []Problem{p}})}
}

// next returns the file with new data. The same data is not decoded again.
func (l *file) next(name string, data []byte, info fs.FileInfo, readAt time.Time, node string) *file {
	n := &file{info: info, readAt: readAt, sum: sha256.Sum256(data), content: l.content}
	if l.info != nil && l.sum == n.sum {
		return n
	}
	read := decode(name, data)
	read.entries = slices.DeleteFunc(read.entries, func(e entry) bool { return !e.wanted(node) })
	n.content = advance(l.content, read)
	return n
}

// contents returns what merge needs.
func (f *folder) contents() map[string]content {
	out := make(map[string]content, len(f.files))
	for name, file := range f.files {
		out[name] = file.content
	}
	return out
}
