package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
)

// ErrChanged tells that the configuration file is no longer what it was.
var ErrChanged = errors.New("configuration file changed")

// Watch returns ErrChanged as soon as the contents of ConfigFile differ from those that the Config was made of, or the
// context's error when it ends. Without a ConfigFile it only waits for the context. A file that is missing or empty has not
// changed, as it is just being replaced. ConfigMap volumes are followed: they change by a symbolic link in the file's folder.
func (c *Config) Watch(ctx context.Context) error {
	if c.ConfigFile == "" {
		<-ctx.Done()
		return ctx.Err()
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", c.ConfigFile, err)
	}
	defer watcher.Close()
	if err := watcher.Add(filepath.Dir(c.ConfigFile)); err != nil {
		return fmt.Errorf("watch %s: %w", c.ConfigFile, err)
	}
	for {
		now, err := os.ReadFile(c.ConfigFile)
		if err == nil && len(now) > 0 && !bytes.Equal(c.contents, now) {
			return fmt.Errorf("%w: %s", ErrChanged, c.ConfigFile)
		}
		// Whatever happened in the folder, and also if events were lost (ErrEventOverflow): only the contents count.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-watcher.Errors:
			if err != nil && !errors.Is(err, fsnotify.ErrEventOverflow) {
				return fmt.Errorf("watch %s: %w", c.ConfigFile, err)
			}
		case <-watcher.Events:
		}
	}
}
