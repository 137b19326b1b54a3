package leftovers

import (
	"errors"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

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
				if _, _, _, err := x.without(Scope{Iptables: true}); err != nil {
					t.Error(err)
				}
				*place += 8
				if _, _, _, err := x.without(Scope{Iptables: true}); !errors.Is(err, errBlob) {
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
