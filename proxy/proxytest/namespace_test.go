package proxytest

import (
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
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
