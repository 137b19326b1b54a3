package leftovers

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// The lock is waited for, and not passed over: what its holder writes could be lost. Where there is no file, there is nobody to wait for.
func TestLockXtables(t *testing.T) {
	path := filepath.Join(t.TempDir(), "xtables.lock")
	unlock, err := lockXtables(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockXtables(path, 20*time.Millisecond); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("while another has the lock: %v", err)
	}
	time.AfterFunc(20*time.Millisecond, unlock)
	again, err := lockXtables(path, time.Minute)
	if err != nil {
		t.Fatalf("after it was given back: %v", err)
	}
	again()
	if none, err := lockXtables(filepath.Join(path, "nowhere"), 0); err != nil {
		t.Errorf("without a file: %v", err)
	} else {
		none()
	}
}

// A head that does not fit the entries, since somebody changed the table in between, is an error: otherwise packets would be led into another chain.
func TestKernelTableThatChanged(t *testing.T) {
	if _, err := exec.LookPath("iptables-legacy"); err != nil {
		t.Skipf("needs iptables-legacy: %v", err)
	}
	proxytest.InNamespace(t, func() {
		if out, err := exec.Command("iptables-legacy", "-t", "nat", "-N", "KUBE-SERVICES").CombinedOutput(); err != nil {
			t.Skipf("needs a kernel with iptables-legacy: %v\n%s", err, out)
		}
		err := withSocket(proxy.IPv4, func(fd int) error {
			x, err := readTable(fd, proxy.IPv4, "nat")
			if err != nil {
				t.Fatal(err)
			}
			for _, place := range []*uint32{&x.entry[0], &x.end[3]} {
				if _, _, _, err := x.without(Scope{Iptables: true}, false); err != nil {
					t.Error(err)
				}
				*place += 8
				if _, _, _, err := x.without(Scope{Iptables: true}, false); !errors.Is(err, errBlob) {
					t.Errorf("a table whose head does not fit: %v", err)
				}
				*place -= 8
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// The first step takes away the jumps by which new connections are translated, and nothing else.
func TestKernelLegacyFirst(t *testing.T) {
	iptables := func(args ...string) string {
		out, err := exec.Command("iptables-legacy", append([]string{"-w", "-t", "nat"}, args...)...).CombinedOutput()
		if err != nil {
			t.Skipf("needs iptables-legacy and its kernel: %v\n%s", err, out)
		}
		return string(out)
	}
	proxytest.InNamespace(t, func() {
		for _, rule := range []string{
			"-N KUBE-SERVICES", "-N KUBE-POSTROUTING", "-A KUBE-SERVICES -d 10.96.0.1/32 -j ACCEPT", "-A PREROUTING -s 192.0.2.1/32 -j ACCEPT",
			"-A PREROUTING -j KUBE-SERVICES", "-A OUTPUT -j KUBE-SERVICES", "-A INPUT -s 192.0.2.2/32 -j ACCEPT", "-A POSTROUTING -j KUBE-POSTROUTING",
		} {
			iptables(strings.Fields(rule)...)
		}
		before := iptables("-S")
		want := strings.NewReplacer("-A PREROUTING -j KUBE-SERVICES\n", "", "-A OUTPUT -j KUBE-SERVICES\n", "").Replace(before)
		if want == before {
			t.Fatalf("no jumps:\n%s", before)
		}
		l, err := FindLegacy(Scope{Iptables: true}, proxy.IPv4)
		if err != nil {
			t.Fatal(err)
		}
		if err := withSocket(proxy.IPv4, func(fd int) error { return l.removeFrom(fd, "nat", true) }); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, iptables("-S")); d != "" {
			t.Errorf("after the first step (-want +got):\n%s", d)
		}
		if err := l.Remove(); err != nil {
			t.Fatal(err)
		}
		if got := iptables("-S"); strings.Contains(got, "KUBE") || !strings.Contains(got, "192.0.2.2") {
			t.Errorf("in the end:\n%s", got)
		}
	})
}
