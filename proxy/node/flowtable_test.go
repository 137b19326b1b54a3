package node

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy/proxytest"
)

// fill permits what changes a setting of the whole machine: it is for virtual machines.
var fill = flag.Bool("flowtable.fill", false, "fill this machine's table of tracked connections for a moment")

// A kernel whose table is really full says so by the numbers that are read.
func TestKernelFlowTableFull(t *testing.T) {
	if !*fill {
		t.Skip("would have this machine drop packets; -flowtable.fill permits it in a virtual machine")
	}
	// The setting is that of the whole machine, and can be written outside of other namespaces only.
	const p, limit = Proc("/proc"), 16
	proxytest.InNamespace(t, func() { track(t) }) // which loads the module
	was, err := p.Read(sysctlMax)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { must(t, p.Write(sysctlMax, was)) }()
	must(t, p.Write(sysctlMax, fmt.Sprint(limit)))
	proxytest.InNamespace(t, func() {
		track(t)
		conn, err := net.ListenPacket("udp", "127.0.0.1:0")
		must(t, err)
		defer conn.Close()
		before, err := p.FlowTable()
		must(t, err)
		refused := 0
		for port := range 4 * limit {
			if _, err := conn.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1000 + port}); err != nil {
				refused++
			}
		}
		now, err := p.FlowTable()
		must(t, err)
		t.Logf("%+v, then %+v; %d packets could not be sent", before, now, refused)
		if problem := now.Problem(before); !strings.Contains(problem, "is full") || now.Max != limit {
			t.Errorf("%q", problem)
		}
	})
}

// track has connections of the namespace tracked.
func track(t *testing.T) {
	t.Helper()
	rules := "table ip t { chain c { type filter hook output priority 0; ct state new accept; }; }"
	if out, err := exec.Command("nft", rules).CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
}

// flowTable makes a proc file system that says how full the table is; the drops are those of two processors.
func flowTable(t *testing.T, p Proc, used, limit int, drops ...uint64) {
	t.Helper()
	stat := "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart\n"
	for _, n := range drops {
		stat += fmt.Sprintf("%08x  00000000 00000000 00000000 000000ff 00000000 00000000 00000003 00000000 00000000 %08x 00000009 00000000  00000000 00000000 00000000 00000000\n", used, n)
	}
	for name, text := range map[string]string{"sys/" + sysctlCount: fmt.Sprintln(used), "sys/" + sysctlMax: fmt.Sprintln(limit), conntrackStat: stat} {
		name = filepath.Join(string(p), name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFlowTable(t *testing.T) {
	p := Proc(t.TempDir())
	if _, err := p.FlowTable(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v of a kernel that tracks nothing", err)
	}
	flowTable(t, p, 65530, 65536, 0x10, 0xf)
	got, err := p.FlowTable()
	if diff := cmp.Diff(FlowTable{65530, 65536, 31}, got); diff != "" || err != nil {
		t.Errorf("%v; -want +got:\n%s", err, diff)
	}
	for _, stat := range []string{"", "entries found\n0 1\n", "entries drop\n00\n", "entries drop\n00 zz\n"} {
		if err := os.WriteFile(filepath.Join(string(p), conntrackStat), []byte(stat), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := p.FlowTable(); err == nil {
			t.Errorf("%q is read as %+v", stat, got)
		}
	}
}

// What this kernel has can be read, if it tracks connections.
func TestFlowTableOfThisKernel(t *testing.T) {
	got, err := Proc("/proc").FlowTable()
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip(err)
	}
	if err != nil || got.Max < 1 || got.Used < 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// A full table is told once for as long as it lasts, with the numbers and the settings that help.
func TestWatchFlowTable(t *testing.T) {
	p := Proc(t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var told []string
		go WatchFlowTable(ctx, p, time.Minute, func(problem string) { told = append(told, problem) })
		step := func(want int, why string) {
			t.Helper()
			time.Sleep(time.Minute)
			synctest.Wait()
			if len(told) != want {
				t.Errorf("%s: told %d times, want %d: %q", why, len(told), want, told)
			}
			told = nil
		}
		time.Sleep(time.Second) // between the looks
		step(0, "nothing is tracked")
		flowTable(t, p, 10, 65536, 7, 0)
		step(0, "drops of before")
		flowTable(t, p, 65536, 65536, 7, 0)
		step(0, "full, but nothing dropped")
		flowTable(t, p, 65536, 65536, 7, 3)
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(told) != 1 || !strings.Contains(told[0], "full (65536 of 65536 flows): 3 packets") || !strings.Contains(told[0], "conntrack.maxPerCore") {
			t.Errorf("%q", told)
		}
		told = nil
		flowTable(t, p, 65536, 65536, 8, 3)
		step(0, "still full")
		step(0, "no longer")
		flowTable(t, p, 65536, 65536, 9, 3)
		step(1, "again")
		flowTable(t, p, 6000, 65536, 10, 3)
		step(0, "dropped for another reason")
		cancel()
	})
}
