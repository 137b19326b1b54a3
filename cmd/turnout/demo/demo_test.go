package demo

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	discovery "k8s.io/api/discovery/v1"

	"turnout/proxy/proxytest/lab"
	"turnout/proxy/source/dir"
)

// endpoints returns the conditions of the endpoints with an address in a folder of manifests, without problems.
func endpoints(t *testing.T, folder, address string) []discovery.EndpointConditions {
	t.Helper()
	objects, problems, err := dir.Load(folder, "n1")
	if err != nil || len(problems) > 0 {
		t.Fatalf("%v %v", problems, err)
	}
	var out []discovery.EndpointConditions
	for _, s := range objects.EndpointSlices {
		for _, e := range s.Endpoints {
			if e.Addresses[0] == address && s.Labels[discovery.LabelServiceName] == "web" {
				out = append(out, e.Conditions)
			}
		}
	}
	return out
}

func TestManifestsCanBeEdited(t *testing.T) {
	m, err := copyManifests(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	const address = "10.244.2.3"
	if got := endpoints(t, m.folder, address); len(got) != 1 || !*got[0].Ready {
		t.Fatalf("at first: %v", got)
	}
	if err := m.edit("web.yaml", address, terminating); err != nil {
		t.Fatal(err)
	}
	if got := endpoints(t, m.folder, address); len(got) != 1 || *got[0].Ready || !*got[0].Serving || !*got[0].Terminating {
		t.Errorf("terminating: %v", got)
	}
	if err := m.edit("web.yaml", address, gone); err != nil {
		t.Fatal(err)
	}
	if got := endpoints(t, m.folder, address); len(got) != 0 {
		t.Errorf("gone: %v", got)
	}
	if got := endpoints(t, m.folder, "fd00:10:244:2::3"); len(got) != 1 {
		t.Errorf("the other family: %v", got)
	}
	if err := m.edit("web.yaml", address, gone); err == nil || !strings.Contains(err.Error(), "web.yaml has no endpoint 10.244.2.3") {
		t.Errorf("gone twice: %v", err)
	}
	if err := m.restore("web.yaml"); err != nil {
		t.Fatal(err)
	}
	if got := endpoints(t, m.folder, address); len(got) != 1 {
		t.Errorf("restored: %v", got)
	}
}

func TestUnfair(t *testing.T) {
	for _, row := range []struct {
		report lab.LoadReport
		want   string
	}{
		{lab.LoadReport{OK: 1000, Servers: map[string]int{"a": 480, "b": 520}}, ""},
		{lab.LoadReport{OK: 1000, Servers: map[string]int{"a": 380, "b": 620}}, ", of which a got 380"},
		{lab.LoadReport{OK: 1000, Servers: map[string]int{"a": 1000}}, ", of which a got 1000"},
		{lab.LoadReport{OK: 1000, Servers: map[string]int{"a": 450, "b": 500, "c": 50}}, ", 50 to c"},
		{lab.LoadReport{OK: 999, Failed: 1, Servers: map[string]int{"a": 500, "b": 499}, Errors: []lab.Outcome{{Result: lab.Timeout}}},
			", 1 failed, such as: timeout"},
	} {
		if got := unfair(row.report, []string{"a", "b"}, 1000); got != row.want {
			t.Errorf("%v: got %q, want %q", row.report, got, row.want)
		}
	}
	if got := unfair(lab.LoadReport{Servers: map[string]int{"a": 99}}, []string{"a"}, 100); got == "" {
		t.Error("one server, one connection missing: nothing is said")
	}
}

func TestScreen(t *testing.T) {
	var plain, colour bytes.Buffer
	for _, s := range []*screen{newScreen(&plain, false), newScreen(&colour, true)} {
		s.heading("Title")
		s.progress("working on %d", 7)
		s.check(true, "two and two is %d", 4)
		s.check(false, "two and two is %d", 5)
		s.bars(map[string]int{"b": 20, "a": 10})
		s.progress("last")
		s.progress("")
		if s.checks != 2 || s.failed != 1 {
			t.Errorf("%d checks, %d failed", s.checks, s.failed)
		}
	}
	column := strings.Repeat(" ", width-len("  two and two is 4")+1)
	want := "\nTitle\n  two and two is 4" + column + "ok\n  two and two is 5" + column + "FAIL\n" +
		"    a       " + strings.Repeat("#", 20) + strings.Repeat(" ", 20) + " 10\n" +
		"    b       " + strings.Repeat("#", 40) + " 20\n"
	if got := plain.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	for _, part := range []string{"... working on 7" + reset + erase, red + "FAIL" + reset, "... last" + reset + erase, "█"} {
		if !strings.Contains(colour.String(), part) {
			t.Errorf("%q is missing in %q", part, colour.String())
		}
	}
}

func TestUntil(t *testing.T) {
	calls := 0
	if err := until(t.Context(), time.Minute, func() (bool, error) { calls++; return calls == 3, nil }); err != nil || calls != 3 {
		t.Errorf("%d calls, %v", calls, err)
	}
	bad := errors.New("bad")
	if err := until(t.Context(), time.Minute, func() (bool, error) { return false, bad }); !errors.Is(err, bad) {
		t.Errorf("got %v", err)
	}
	if err := until(t.Context(), time.Millisecond, func() (bool, error) { return false, nil }); err == nil {
		t.Error("patience has no end")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := until(ctx, time.Minute, func() (bool, error) { return false, nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Folders of demos that were killed are removed, those of running and of just starting ones are not.
func TestFoldersAreSwept(t *testing.T) {
	inside := t.TempDir()
	alive, err := newFolder(inside)
	if err != nil {
		t.Fatal(err)
	}
	dead, err := os.MkdirTemp(inside, folderPrefix)
	if err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(inside, "other")
	if err := os.Mkdir(foreign, 0o755); err != nil {
		t.Fatal(err)
	}
	there := func() (out []bool) {
		for _, path := range []string{alive.path, dead, foreign} {
			_, err := os.Stat(path)
			out = append(out, err == nil)
		}
		return out
	}
	sweep(inside, time.Now())
	if got := there(); !got[0] || !got[1] || !got[2] {
		t.Errorf("young: %v", got)
	}
	sweep(inside, time.Now().Add(2*youngFolder))
	if got := there(); !got[0] || got[1] || !got[2] {
		t.Errorf("old: %v", got)
	}
	if err := alive.remove(); err != nil {
		t.Error(err)
	}
	if got := there(); got[0] {
		t.Error("removed, but still there")
	}
}
