package node

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
)

// FakeSysctl is a Sysctl in memory, for tests. Like the kernel it has only the settings that it was made with. It may be
// used by several goroutines.
type FakeSysctl struct {
	mu     sync.Mutex // guards what follows
	values map[string]string
	refuse map[string]error
}

var _ Sysctl = (*FakeSysctl)(nil)

// NewFakeSysctl returns one with the given settings.
func NewFakeSysctl(values map[string]string) *FakeSysctl {
	return &FakeSysctl{values: maps.Clone(values), refuse: map[string]error{}}
}

// Refuse makes later writes of a setting return err, such as unix.EROFS; nil ends this.
func (s *FakeSysctl) Refuse(name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse[name] = err
}

// Read reads a setting.
func (s *FakeSysctl) Read(name string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.values[name]
	if !ok {
		return "", &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return v, nil
}

// Write writes a setting.
func (s *FakeSysctl) Write(name, value string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.refuse[name]
	if _, ok := s.values[name]; err == nil && !ok {
		err = fs.ErrNotExist
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: name, Err: err}
	}
	s.values[name] = value
	return nil
}

// String lists the settings, one "name = value" per line, sorted.
func (s *FakeSysctl) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s.values)) {
		fmt.Fprintf(&b, "%s = %s\n", name, s.values[name])
	}
	return b.String()
}
