package dir

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"

	"github.com/fsnotify/fsnotify"
)

// pending is what the kernel told since it was last asked.
type pending struct {
	names map[string]bool // files inside the folder
	all   bool            // every file may have changed
	moved bool            // the folder itself was removed, renamed or made anew
}

// force reports whether a file has to be read though it looks unchanged.
func (p pending) force(name string) bool { return p.all || p.names[name] }

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

// take returns what is pending and clears it.
func (w *watch) take() pending {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.pending
	w.pending = pending{}
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
		if w.pending.names == nil {
			w.pending.names = map[string]bool{}
		}
		w.pending.names[filepath.Base(name)] = true
	}
	return true
}
