package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settlePeriod is how long the file must stay the same before it counts: an editor may write it in parts.
	settlePeriod = 100 * time.Millisecond
	// pollPeriod is how often the file is read though no change was noticed: the folder itself may be replaced, the file may be a
	// link to another folder, or the kernel may not have a watch to give.
	pollPeriod = 10 * time.Second
)

// Follow calls changed with the contents of ConfigFile each time they are others than those that changed got last, and others than those
// that c was made of, the first time. It returns the error of changed, or that of the context when it ends. Without a ConfigFile it only
// waits for the context. A file that is missing or empty has not changed, as it is just being replaced. ConfigMap volumes are
// followed: they change by a symbolic link in the file's folder. trouble is told if changes may be noticed only after ten seconds.
func (c *Config) Follow(ctx context.Context, changed func(contents []byte) error, trouble func(error)) error {
	if c.ConfigFile == "" {
		<-ctx.Done()
		return ctx.Err()
	}
	f := follower{path: c.ConfigFile, last: c.contents, poll: pollPeriod, settle: settlePeriod}
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		defer watcher.Close()
		err = watcher.Add(filepath.Dir(c.ConfigFile))
	}
	if err != nil {
		trouble(fmt.Errorf("watch %s: %w", c.ConfigFile, err))
		return f.run(ctx, nil, changed, trouble)
	}
	return f.run(ctx, watcher, changed, trouble)
}

// follower reads a file again and again.
type follower struct {
	path         string
	last         []byte // what changed was told last
	poll, settle time.Duration
}

// run reads the file when the watcher, which may be nil, has seen something in its folder, and from time to time. Whatever happened
// there, and also if events were lost: only the contents count.
func (f *follower) run(ctx context.Context, w *fsnotify.Watcher, changed func([]byte) error, trouble func(error)) error {
	var events <-chan fsnotify.Event
	var errs <-chan error
	if w != nil {
		events, errs = w.Events, w.Errors
	}
	tick := time.NewTicker(f.poll)
	defer tick.Stop()
	for {
		if now, ok := f.read(ctx); ok {
			f.last = now
			if err := changed(now); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-events:
		case err := <-errs:
			if err != nil && !errors.Is(err, fsnotify.ErrEventOverflow) {
				trouble(fmt.Errorf("watch %s: %w", f.path, err))
			}
		}
	}
}

// read returns the contents of the file once they stay the same, if they are others than the last.
func (f *follower) read(ctx context.Context) (contents []byte, changed bool) {
	before, err := f.contents()
	for err == nil && !bytes.Equal(before, f.last) {
		select {
		case <-ctx.Done():
			return nil, false
		case <-time.After(f.settle):
		}
		var now []byte
		if now, err = f.contents(); err == nil && bytes.Equal(now, before) {
			return now, true
		}
		before = now
	}
	return nil, false
}

var errEmpty = errors.New("the file is empty")

func (f *follower) contents() ([]byte, error) {
	data, err := os.ReadFile(f.path)
	if err == nil && len(data) == 0 {
		err = errEmpty
	}
	return data, err
}
