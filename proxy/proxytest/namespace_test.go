package proxytest

import (
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

func namespaceID(t *testing.T) string {
	t.Helper()
	id, err := os.Readlink(threadNamespace)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestInNamespaceIsEmptyAndLeft(t *testing.T) {
	before := namespaceID(t)
	InNamespace(t, func() {
		if inside := namespaceID(t); inside == before {
			t.Fatalf("still in namespace %s", inside)
		}
		links, err := netlink.LinkList()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links { // tunnel modules add a link of their own, down, to every namespace
			if up := l.Attrs().Flags&net.FlagUp != 0; up != (l.Attrs().Name == "lo") {
				t.Fatalf("link %s is up: %t", l.Attrs().Name, up)
			}
		}
		l, err := net.Listen("tcp", "127.0.0.1:1") // free, as nothing else is in here
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := net.Dial("tcp", "127.0.0.1:1")
		if err != nil {
			t.Fatalf("loopback does not carry packets: %v", err)
		}
		c.Close()
	})
	if after := namespaceID(t); after != before {
		t.Fatalf("namespace afterwards: %s, before: %s", after, before)
	}
}

func TestInNamespaceIsLeftOnGoexit(t *testing.T) {
	before := namespaceID(t)
	done := make(chan string)
	go func() {
		defer func() { done <- namespaceID(t) }()
		InNamespace(t, runtime.Goexit)
	}()
	if after := <-done; after != before {
		t.Fatalf("namespace afterwards: %s, before: %s", after, before)
	}
}

// Without CAP_SYS_ADMIN the tests run in a user namespace, where nothing is skipped.
func TestMainInUserNamespace(t *testing.T) {
	if err := Privileged(); err != nil || os.Getenv(reexecEnv) != "" {
		t.Skip("needs privileges to give up")
	}
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run=^TestInNamespaceIsEmptyAndLeft$")
	var out []byte
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with what it lost
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_ADMIN, 0, 0, 0); err != nil {
			done <- err
			return
		}
		var err error
		out, err = cmd.CombinedOutput()
		done <- err
	}()
	if err := <-done; err != nil {
		if strings.Contains(string(out), "SKIP") {
			t.Skipf("the kernel does not let everybody make user namespaces: %s", out)
		}
		t.Fatalf("%v: %s", err, out)
	}
	if !strings.Contains(string(out), "--- PASS: TestInNamespaceIsEmptyAndLeft") && !strings.Contains(string(out), "--- SKIP") {
		t.Errorf("neither passed nor skipped:\n%s", out)
	}
	t.Logf("%s", out)
}
