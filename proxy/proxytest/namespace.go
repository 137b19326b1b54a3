package proxytest

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// T is what this package needs of *testing.T, *testing.B and *testing.F.
type T interface {
	Helper()
	Cleanup(func())
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// InNamespace runs fn in a new network namespace that has nothing but a loopback interface, which is up. It skips the test
// with a reason if the process may not make namespaces (see Main). The namespace belongs to the OS thread, to which the
// calling goroutine is locked while fn runs: sockets that fn itself opens are in the namespace, and so are processes it
// starts, but goroutines that it starts are not. The namespace is gone when fn and everything opened in it are.
func InNamespace(t T, fn func()) {
	t.Helper()
	if err := Privileged(); err != nil {
		t.Skipf("needs network namespaces: %v", err)
	}
	runtime.LockOSThread()
	home, err := os.Open(threadNamespace)
	if err != nil {
		t.Fatalf("open network namespace: %v", err)
	}
	// fn may leave through runtime.Goexit (t.Fatal), so everything is put back in deferred calls.
	defer home.Close()
	defer func() {
		// A thread that cannot go back must not be reused: it stays locked, and ends with the goroutine.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	if err := loopbackUp(); err != nil {
		t.Fatalf("%v", err)
	}
	fn()
}

// threadNamespace is the network namespace of the calling thread, which may differ from that of the process.
const threadNamespace = "/proc/thread-self/ns/net"

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback interface: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set loopback interface up: %w", err)
	}
	return nil
}

// Privileged tells, by trying it, why this process cannot make network namespaces and configure them; nil if it can.
func Privileged() error {
	done := make(chan error, 1)
	go func() {
		// The thread stays locked, so that it ends with the goroutine and takes the namespace along.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			if errors.Is(err, unix.EPERM) {
				err = errors.New("no CAP_SYS_ADMIN: run as root")
			}
			done <- err
			return
		}
		done <- loopbackUp()
	}()
	return <-done
}
