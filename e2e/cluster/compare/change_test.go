package compare

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"turnout/e2e/cluster/compare/beside"
)

// patience bounds every wait for something that takes a second or two on an idle machine.
const patience = 60 * time.Second

// fate is what becomes of a proxy whose configuration file changes.
type fate string

const (
	ends  fate = "ends with exit code 1"
	stays fate = "stays"
)

// TestChangedFile changes the configuration file of running proxies. Where kube-proxy ends, or fails to notice, Turnout may do better: see
// "Configuration file changes" in docs/differences.md.
func TestChangedFile(t *testing.T) {
	p := newPair(t, usual)
	text, err := os.ReadFile(p.path)
	if err != nil {
		t.Fatal(err)
	}
	add := func(line string) string { return string(text) + line + "\n" }
	for _, row := range []struct {
		name              string
		to                string
		mount             func(folder string, text []byte) error
		change            func(folder, to string) error
		upstream, turnout fate
		log               string // of Turnout
	}{
		{"a field of the process, written", add("enableProfiling: true"), plain, writeFile, ends, ends, "enableProfiling"},
		{"a field of the process, renamed", add("enableProfiling: true"), plain, replaceFile, stays, ends, "enableProfiling"},
		{"a field of the process, in a volume", add("enableProfiling: true"), volume, swapVolume, stays, ends, "enableProfiling"},
		{"a field of the rules", strings.ReplaceAll(add(""), "masqueradeAll: false", "masqueradeAll: true"), plain, writeFile, ends, stays, "is in effect"},
		{"a field of the rules, in a volume", strings.ReplaceAll(add(""), "masqueradeAll: false", "masqueradeAll: true"), volume, swapVolume, stays, stays, "is in effect"},
		{"a comment", add("# nothing"), plain, writeFile, ends, stays, "no setting did"},
		{"not to be used", add("bindAddress: nowhere"), plain, writeFile, ends, stays, "cannot be used"},
	} {
		t.Run(row.name, func(t *testing.T) {
			var got [2]fate
			for i, s := range []*beside.Side{p.upstream, p.turnout} {
				folder := t.TempDir()
				if err := errors.Join(row.mount(folder, text), s.End(), s.Start("--config="+filepath.Join(folder, "config.conf"), "-v=2")); err != nil {
					t.Fatal(err)
				}
				if err := p.Settle(t.Context(), s); err != nil {
					t.Fatal(err)
				}
				if err := row.change(folder, row.to); err != nil {
					t.Fatal(err)
				}
				got[i] = fateOf(t, s, []fate{row.upstream, row.turnout}[i])
			}
			if want := [2]fate{row.upstream, row.turnout}; got != want {
				t.Errorf("kube-proxy, turnout: %q, want %q", got, want)
			}
			var log string
			for end := time.Now().Add(patience); !strings.Contains(log, row.log) && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				log = p.turnout.Log()
			}
			if !strings.Contains(log, row.log) {
				t.Errorf("turnout's log does not have %q:\n%s", row.log, lastLines(log, 5))
			}
		})
	}
}

// fateOf waits for the end of a proxy; where it is expected to stay, not for long.
func fateOf(t *testing.T, s *beside.Side, want fate) fate {
	t.Helper()
	limit := patience
	if want == stays {
		limit = time.Second
	}
	select {
	case <-s.Ended():
		if code := s.ExitCode(); code != 1 {
			t.Errorf("%s ends with %d", s.Name, code)
		}
		return ends
	case <-time.After(limit):
		return stays
	}
}

// plain makes the file.
func plain(folder string, text []byte) error {
	return os.WriteFile(filepath.Join(folder, "config.conf"), text, 0o644)
}

// volume makes a folder look as the kubelet mounts a ConfigMap: config.conf is a link through ..data to a folder of a version.
func volume(folder string, text []byte) error {
	first := filepath.Join(folder, "..first")
	return errors.Join(os.Mkdir(first, 0o755), os.WriteFile(filepath.Join(first, "config.conf"), text, 0o644),
		os.Symlink("..first", filepath.Join(folder, "..data")), os.Symlink("..data/config.conf", filepath.Join(folder, "config.conf")))
}

// writeFile writes into the file itself.
func writeFile(folder, to string) error { return plain(folder, []byte(to)) }

// replaceFile puts another file in its place.
func replaceFile(folder, to string) error {
	file := filepath.Join(folder, "config.conf")
	return errors.Join(os.WriteFile(file+".new", []byte(to), 0o644), os.Rename(file+".new", file))
}

// swapVolume brings another version of the ConfigMap as the kubelet does.
func swapVolume(folder, to string) error {
	second, link := filepath.Join(folder, "..second"), filepath.Join(folder, "..data")
	return errors.Join(os.Mkdir(second, 0o755), os.WriteFile(filepath.Join(second, "config.conf"), []byte(to), 0o644),
		os.Symlink("..second", link+"_tmp"), os.Rename(link+"_tmp", link))
}
