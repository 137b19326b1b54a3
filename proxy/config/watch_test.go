package config

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// told is what Follow told.
type told struct {
	contents chan string
	trouble  chan error
	ended    chan error
}

// follow follows the file of c until the test ends.
func follow(t *testing.T, c *Config, answer error) *told {
	ctx, cancel := context.WithCancel(t.Context())
	w := &told{contents: make(chan string, 100), trouble: make(chan error, 1), ended: make(chan error, 1)}
	go func() {
		w.ended <- c.Follow(ctx, func(contents []byte) error { w.contents <- string(contents); return answer }, func(err error) { w.trouble <- err })
		close(w.ended)
	}()
	t.Cleanup(func() {
		cancel()
		for err := range w.ended {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Follow ended with %v", err)
			}
		}
		if len(w.contents) > 0 || len(w.trouble) > 0 {
			t.Errorf("Follow told %d times more of changes, %d times of trouble", len(w.contents), len(w.trouble))
		}
	})
	return w
}

func (w *told) expect(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-w.contents:
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	case <-time.After(5 * time.Second): // half of pollPeriod: it is the folder's events that tell
		t.Errorf("not told of %q", want)
	}
}

// A file is followed however it is replaced; what leaves it as it is is not noticed.
func TestFollow(t *testing.T) {
	const v2 = header + "enableProfiling: true\n"
	change := map[string]func(t *testing.T, dir string){
		"written in place": func(t *testing.T, dir string) { write(t, filepath.Join(dir, "config.conf"), v2) },
		"written in parts": func(t *testing.T, dir string) {
			path := filepath.Join(dir, "config.conf")
			for i := range len(v2) {
				write(t, path, v2[:i+1])
			}
		},
		"replaced": func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "new"), v2)
			rename(t, dir, "new", "config.conf")
		},
		"removed and written": func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "config.conf")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
			write(t, filepath.Join(dir, "config.conf"), v2)
		},
		"link of a ConfigMap volume": func(t *testing.T, dir string) {
			volume(t, dir, "..2", v2)
		},
	}
	for name, change := range change {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "config.conf")
			if name == "link of a ConfigMap volume" {
				volume(t, dir, "..1", header)
				link(t, dir, "..data/config.conf", "config.conf")
			} else {
				write(t, path, header)
			}
			w := follow(t, mustLoad(t, nil, "--config="+path), nil)
			write(t, filepath.Join(dir, "other"), "not ours")
			write(t, path, header)
			change(t, dir)
			w.expect(t, v2)
			if name == "link of a ConfigMap volume" {
				volume(t, dir, "..3", header)
			} else {
				write(t, path, "") // just being replaced
				time.Sleep(2 * settlePeriod)
				write(t, path, header)
			}
			w.expect(t, header) // also back to what it was at first
		})
	}
}

// volume makes a folder the data of a ConfigMap volume, as kubelet does: with one rename.
func volume(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, name, "config.conf"), text)
	link(t, dir, name, "..data_tmp")
	rename(t, dir, "..data_tmp", "..data")
}

func link(t *testing.T, dir, to, name string) {
	t.Helper()
	if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, dir, from, to string) {
	t.Helper()
	if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
		t.Fatal(err)
	}
}

func TestFollowEndsWithTheErrorOfChanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.conf")
	write(t, path, header)
	c := mustLoad(t, nil, "--config="+path)
	write(t, path, header+"# before it is followed\n")
	end := errors.New("enough")
	err := c.Follow(t.Context(), func([]byte) error { return end }, func(err error) { t.Error(err) })
	if !errors.Is(err, end) {
		t.Errorf("%v", err)
	}
}

// Without a watch, the file is still read from time to time.
func TestFollowByReading(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.conf")
	write(t, path, "v1")
	f := follower{path: path, last: []byte("v1"), poll: time.Millisecond, settle: time.Millisecond}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	versions, got := []string{"v2", "v3", "v4"}, []string(nil)
	replace := func() {
		write(t, filepath.Join(dir, "new"), versions[len(got)])
		rename(t, dir, "new", "config.conf")
	}
	time.AfterFunc(5*time.Millisecond, replace)
	err := f.run(ctx, nil, func(contents []byte) error {
		got = append(got, string(contents))
		if len(got) == len(versions) {
			cancel()
		} else {
			replace()
		}
		return nil
	}, func(err error) { t.Error(err) })
	if diff := cmp.Diff(versions, got); diff != "" || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, -want +got\n%s", err, diff)
	}
}

func TestFollowOfNothing(t *testing.T) {
	c := mustLoad(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := c.Follow(ctx, func([]byte) error { t.Error("told of a change"); return nil }, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	w := follow(t, mustLoad(t, map[string]string{"/absent/file": header}, "--config=/absent/file"), nil)
	select {
	case err := <-w.trouble:
		if !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("not told that a folder cannot be watched")
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
