package dir

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// pending is what the kernel told since it was last asked.
type pending struct {
	names map[string]span // files inside the folder
	hot   map[string]bool // of those, the ones that someone still writes to: they are to be left alone for now
	all   bool            // every file may have changed
	moved bool            // the folder itself was removed, renamed or made anew
}

// span is the time of the first and of the last change of a file.
type span struct {
	first, last time.Time
}

// interest is what to do about a file.
type interest uint8

const (
	look  interest = iota // read it if it looks changed
	force                 // read it
	leave                 // leave it as it was read last
)

func (p pending) interest(name string) interest {
	if p.hot[name] {
		return leave
	}
	if _, named := p.names[name]; named || p.all {
		return force
	}
	return look
}

// watch gathers inotify events of a folder and, to see it being replaced, of its parent.
type watch struct {
	dir     string // absolute
	create  func() (*fsnotify.Watcher, error)
	wake    chan struct{} // has an element if something is pending
	watcher *fsnotify.Watcher
	pumped  chan struct{} // closed when the watcher's events were all taken

	mu      sync.Mutex // guards pending
	pending pending
}

func newWatch(dir string) *watch {
	return &watch{dir: dir, create: fsnotify.NewWatcher, wake: make(chan struct{}, 1)}
}

// arm starts watching anew whatever now is at the path. It can be called again at any time; events before it are not needed,
// since the caller reads the folder afterwards. An error means that changes will not be told.
func (w *watch) arm() error {
	w.disarm()
	watcher, err := w.create()
	if err != nil {
		return err
	}
	w.watcher, w.pumped = watcher, make(chan struct{})
	go w.pump(watcher, w.pumped)
	if parent := filepath.Dir(w.dir); parent != w.dir {
		_ = watcher.Add(parent) // it only makes a replaced folder noticed earlier, and may be forbidden
	}
	if err := watcher.Add(w.dir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return err // the parent is watched
		}
		w.disarm()
		return err
	}
	return nil
}

// disarm stops watching. What is pending stays.
func (w *watch) disarm() {
	if w.watcher == nil {
		return
	}
	_ = w.watcher.Close() // it has nothing to lose
	<-w.pumped
	w.watcher = nil
}

// take returns what is pending and clears it, but for files that changed later than settled and are not overdue: what is
// written piece by piece is not read halfway.
func (w *watch) take(settled, overdue time.Time) pending {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.pending
	w.pending = pending{}
	for name, s := range p.names {
		if !s.last.After(settled) || s.first.Before(overdue) {
			continue
		}
		if p.hot == nil {
			p.hot, w.pending.names = map[string]bool{}, map[string]span{}
		}
		p.hot[name], w.pending.names[name] = true, s
	}
	if len(p.hot) > 0 {
		w.signal()
	}
	return p
}

// pump takes events from the watcher without delay, for the kernel's queue is short.
func (w *watch) pump(watcher *fsnotify.Watcher, pumped chan<- struct{}) {
	defer close(pumped)
	errs := watcher.Errors
	for {
		select {
		case e, ok := <-watcher.Events:
			if !ok {
				return
			}
			if w.note(e) {
				w.signal()
			}
		case _, ok := <-errs:
			if !ok {
				errs = nil
				continue
			}
			// An overflow or anything else: events may be missing.
			w.mu.Lock()
			w.pending.all, w.pending.moved = true, true
			w.mu.Unlock()
			w.signal()
		}
	}
}

func (w *watch) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// note records an event; false if it is of no concern.
func (w *watch) note(e fsnotify.Event) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := filepath.Clean(e.Name)
	switch {
	case name == w.dir:
		// A change of its attributes does not replace it.
		w.pending.moved = w.pending.moved || e.Op&(fsnotify.Create|fsnotify.Remove|fsnotify.Rename) != 0
	case filepath.Dir(name) != w.dir:
		return false // a neighbour in the parent
	case strings.HasPrefix(filepath.Base(name), ".."):
		w.pending.all = true // the link through which all files of a mounted ConfigMap are seen
	default:
		w.lockedTouch(filepath.Base(name), time.Now())
	}
	return true
}

func (w *watch) lockedTouch(name string, now time.Time) {
	if w.pending.names == nil {
		w.pending.names = map[string]span{}
	}
	s, ok := w.pending.names[name]
	if !ok {
		s.first = now
	}
	s.last = now
	w.pending.names[name] = s
}
