package node

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"turnout/proxy/proxytest"
)

// procWith makes a proc file system of the given files.
func procWith(t *testing.T, files map[string]string) Proc {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Proc(root)
}

// TestSysctls holds the real one and the fake to the same behaviour.
func TestSysctls(t *testing.T) {
	const name = "net/ipv4/ip_forward"
	for kind, sys := range map[string]Sysctl{
		"files": procWith(t, map[string]string{"sys/" + name: "0\n"}),
		"fake":  NewFakeSysctl(map[string]string{name: "0"}),
	} {
		t.Run(kind, func(t *testing.T) {
			if v, err := sys.Read(name); err != nil || v != "0" {
				t.Errorf("read: %q, %v", v, err)
			}
			if err := sys.Write(name, "1"); err != nil {
				t.Errorf("write: %v", err)
			}
			if v, err := sys.Read(name); err != nil || v != "1" {
				t.Errorf("read again: %q, %v", v, err)
			}
			if _, err := sys.Read("net/nothing"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("read what is not there: %v", err)
			}
			if err := sys.Write("net/nothing", "1"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("write what is not there: %v", err)
			}
			if _, err := sys.Read("net/nothing"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("write made a setting: %v", err)
			}
		})
	}
}

func TestFakeSysctlRefuses(t *testing.T) {
	sys := NewFakeSysctl(map[string]string{"a": "0"})
	sys.Refuse("a", unix.EROFS)
	if err := sys.Write("a", "1"); !ReadOnly(err) {
		t.Errorf("got %v", err)
	}
	sys.Refuse("a", nil)
	if err := sys.Write("a", "1"); err != nil || sys.String() != "a = 1\n" {
		t.Errorf("got %v, then %s", err, sys)
	}
}

func TestIPv6(t *testing.T) {
	const inet6, off = "net/if_inet6", "sys/net/ipv6/conf/all/disable_ipv6"
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  bool
	}{
		{"kernel with IPv6", map[string]string{inet6: "", off: "0\n"}, true},
		{"kernel without IPv6", nil, false},
		{"switched off", map[string]string{inet6: "", off: "1\n"}, false},
		{"setting cannot be read", map[string]string{inet6: ""}, true},
	} {
		if got := procWith(t, tt.files).IPv6(); got != tt.want {
			t.Errorf("%s: got %t", tt.name, got)
		}
	}
}

func TestSetOOMScoreAdj(t *testing.T) {
	p := procWith(t, map[string]string{"self/oom_score_adj": "0\n"})
	if err := p.SetOOMScoreAdj(-999); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(string(p), "self/oom_score_adj")); err != nil || string(b) != "-999\n" {
		t.Errorf("got %q, %v", b, err)
	}
	if err := procWith(t, nil).SetOOMScoreAdj(0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a proc file system: %v", err)
	}
}

// TestTuneConntrackOfKernel tunes a network namespace of its own, which may set timeouts but not the size of the table.
func TestTuneConntrackOfKernel(t *testing.T) {
	proxytest.InNamespace(t, func() {
		sys := Proc("/proc")
		if _, err := sys.Read(sysctlTCPCloseWait); err != nil {
			t.Skipf("needs nf_conntrack: %v", err)
		}
		if TCPLiberal(sys) {
			t.Errorf("%s is not what a new namespace has", sysctlTCPBeLiberal)
		}
		c := ConntrackConfig{MaxPerCore: 1, Min: 4321, TCPCloseWait: 1234e9, TCPBeLiberal: true}
		written, problems := TuneConntrack(sys, c, runtime.NumCPU())
		if len(written) != 2 {
			t.Errorf("written %v, want close_wait and be_liberal", written)
		}
		if len(problems) != 1 || problems[0].Name != sysctlMax || problems[0].Fatal() {
			t.Errorf("problems %v, want one of %s that is not fatal", problems, sysctlMax)
		}
		if !TCPLiberal(sys) || TCPLiberal(NewFakeSysctl(nil)) {
			t.Error("what was set is not seen, or what is not there is")
		}
		for name, want := range map[string]string{sysctlTCPCloseWait: "1234", sysctlTCPBeLiberal: "1"} {
			if v, err := sys.Read(name); err != nil || v != want {
				t.Errorf("%s is %q, %v, want %s", name, v, err, want)
			}
		}
	})
}

func TestCountList(t *testing.T) {
	for list, want := range map[string]int{"0": 1, "0-3": 4, "0-3,8,10-11": 7} {
		if n, err := countList(list); err != nil || n != want {
			t.Errorf("%q: %d, %v, want %d", list, n, err, want)
		}
	}
	for _, list := range []string{"", "x", "3-1", "0-", "-1"} {
		if n, err := countList(list); err == nil {
			t.Errorf("%q: %d, want an error", list, n)
		}
	}
	if n := Processors(); n < 1 {
		t.Errorf("%d processors", n)
	}
}
