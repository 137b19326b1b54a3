package nfacct

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"turnout/proxy/proxytest"
)

func TestMain(m *testing.M) { os.Exit(proxytest.Main(m)) }

// inKernel runs fn in a new network namespace, if the kernel has counters.
func inKernel(t *testing.T, fn func()) {
	proxytest.InNamespace(t, func() {
		if _, err := Packets("probe"); !errors.Is(err, fs.ErrNotExist) {
			t.Skipf("the kernel has no packet counters: %v", err)
		}
		fn()
	})
}

func wantPackets(t *testing.T, name string, want uint64) {
	t.Helper()
	if got, err := Packets(name); got != want || err != nil {
		t.Errorf("%s: %d packets, %v; want %d", name, got, err, want)
	}
}

// A counter is made once, counts what rules have it count, cannot be deleted while a rule has it, and goes when it is deleted.
func TestLife(t *testing.T) {
	inKernel(t, func() {
		const name = "some_packets"
		for range 2 {
			if err := Ensure(name); err != nil {
				t.Fatal(err)
			}
		}
		wantPackets(t, name, 0)
		count(t, name, 3)
		wantPackets(t, name, 3)
		if err := Ensure(name); err != nil {
			t.Error(err)
		}
		wantPackets(t, name, 3)
		if err := Delete(name); !errors.Is(err, unix.EBUSY) {
			t.Errorf("deleted while a rule counts with it: %v", err)
		}
		if out, err := exec.Command("iptables-legacy", "-F").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		wantPackets(t, name, 3)
		if err := Delete(name); err != nil {
			t.Error(err)
		}
		for what, err := range map[string]error{"delete": Delete(name), "read": read(name)} {
			if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), name) {
				t.Errorf("%s what is not there: %v", what, err)
			}
		}
	})
}

func read(name string) error {
	_, err := Packets(name)
	return err
}

// count has a rule count packets to this machine itself.
func count(t *testing.T, name string, packets int) {
	t.Helper()
	out, err := exec.Command("iptables-legacy", "-A", "INPUT", "-p", "udp", "--dport", "9", "-m", "nfacct", "--nfacct-name", name, "-j", "DROP").CombinedOutput()
	if err != nil {
		t.Skipf("needs iptables-legacy with its extension nfacct: %v: %s", err, out)
	}
	c, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range packets {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
}

// No request is made that would delete all counters, or be about another name than the one given.
func TestNames(t *testing.T) {
	inKernel(t, func() {
		if err := Ensure("kept"); err != nil {
			t.Fatal(err)
		}
		long := strings.Repeat("x", maxName+1)
		for what, err := range map[string]error{"delete none": Delete(""), "delete long": Delete(long), "make long": Ensure(long), "read long": read(long)} {
			if err == nil {
				t.Errorf("%s: no error", what)
			}
		}
		wantPackets(t, "kept", 0)
		if err := Ensure(long[:maxName]); err != nil {
			t.Error(err)
		}
		wantPackets(t, long[:maxName], 0)
	})
}

// What is no answer about a counter gives no number.
func TestParse(t *testing.T) {
	whole := []byte{0, 0, 0, 0, 12, 0, attributePackets, 0, 0, 0, 0, 0, 0, 0, 2, 1}
	if n, ok := parse(whole); n != 0x201 || !ok {
		t.Errorf("%#x, %v", n, ok)
	}
	for n := range whole {
		if got, ok := parse(whole[:n]); ok {
			t.Errorf("%d of %d bytes give %d", n, len(whole), got)
		}
	}
}
