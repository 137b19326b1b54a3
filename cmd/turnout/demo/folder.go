package demo

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// folder is a temporary folder. It is locked as long as the process lives, so that the next demo can tell those that were left
// behind by one that was killed.
type folder struct {
	path string
	lock *os.File
}

const folderPrefix = "turnout-demo-"

// youngFolder is the age below which a folder is nobody's to remove: it may not be locked yet.
const youngFolder = time.Minute

// newFolder makes a folder inside another, and removes what earlier demos left there.
func newFolder(inside string) (*folder, error) {
	sweep(inside, time.Now())
	path, err := os.MkdirTemp(inside, folderPrefix)
	if err != nil {
		return nil, fmt.Errorf("make a temporary folder: %w", err)
	}
	f := &folder{path: path}
	if f.lock, err = lockFolder(path); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the temporary folder %s: %w", path, err), os.RemoveAll(path))
	}
	return f, nil
}

func (f *folder) remove() error { return errors.Join(os.RemoveAll(f.path), f.lock.Close()) }

// lockFolder returns an error if somebody else has the lock.
func lockFolder(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// sweep removes folders that nobody has locked. What cannot be removed, such as those of other users, stays.
func sweep(inside string, now time.Time) {
	paths, _ := filepath.Glob(filepath.Join(inside, folderPrefix+"*"))
	for _, path := range paths {
		info, err := os.Lstat(path)
		if err != nil || !info.IsDir() || now.Sub(info.ModTime()) < youngFolder {
			continue
		}
		lock, err := lockFolder(path)
		if err != nil {
			continue
		}
		_ = os.RemoveAll(path)
		_ = lock.Close()
	}
}
