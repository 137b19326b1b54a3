package nftables

import (
	"context"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// watch starts Watch in the namespace of the calling thread, and waits until it listens.
func watch(t *testing.T, own ...uint32) (reports <-chan Interference, stop func()) {
	t.Helper()
	return watchFor(t, TableName, own)
}

func watchFor(t *testing.T, table string, own []uint32) (reports <-chan Interference, stop func()) {
	t.Helper()
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	out, ended := make(chan Interference, 100), make(chan error, 1)
	go func() {
		// The thread ends with the goroutine, which does not unlock it.
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			ended <- err
			return
		}
		ended <- watchTable(ctx, table, own, func(i Interference) { out <- i })
	}()
	stop = func() {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("watch: %v", err)
		}
		ns.Close()
	}
	// Only what comes after the watch has begun is reported: changes are made until one is.
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		nft(t, "add table ip6 "+table+"; delete table ip6 "+table)
		select {
		case <-out:
			drainReports(t, out, 0)
			return out, stop
		case err := <-ended:
			t.Fatalf("watch: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatal("nothing is reported")
	return nil, nil
}

// drainReports waits for so many reports, and then until there are no more.
func drainReports(t *testing.T, reports <-chan Interference, some int) (out []Interference) {
	t.Helper()
	for {
		idle := 50 * time.Millisecond
		if len(out) < some {
			idle = 5 * time.Second
		}
		select {
		case i := <-reports:
			if i.PID == 0 && i.What != "unknown" {
				t.Errorf("%+v: no writer", i)
			}
			i.PID = 0
			out = append(out, i)
		case <-time.After(idle):
			return out
		}
	}
}

// Changes of our tables by others are reported, once for each transaction and family, with their writer; changes of our own, of other
// tables and of other families are not.
func TestKernelWatch(t *testing.T) {
	inKernel(t, func() {
		four, six := newTestBackend(t, Options{Family: proxy.IPv4}), newTestBackend(t, Options{Family: proxy.IPv6})
		state := func(f proxy.Family, n int) *proxy.State { return proxytest.NewState(f, plains(n)...) }
		if _, err := four.Apply(t.Context(), state(proxy.IPv4, 2)); err != nil {
			t.Fatal(err)
		}
		reports, stop := watch(t, four.PortID(), six.PortID())
		defer stop()
		check := func(name string, want ...Interference) {
			t.Helper()
			if diff := cmp.Diff(want, drainReports(t, reports, len(want))); diff != "" {
				t.Errorf("%s: -want +got:\n%s", name, diff)
			}
		}
		by := func(f proxy.Family, what string) Interference {
			return Interference{Family: f, What: what, Process: "nft"}
		}
		if _, err := four.Apply(t.Context(), state(proxy.IPv4, 3)); err != nil {
			t.Fatal(err)
		}
		if _, err := six.Apply(t.Context(), proxytest.NewState(proxy.IPv6)); err != nil {
			t.Fatal(err)
		}
		four.Forget()
		if _, err := four.Apply(t.Context(), state(proxy.IPv4, 3)); err != nil {
			t.Fatal(err)
		}
		check("our own changes")
		nft(t, "add table ip foreign; add chain ip foreign c; add table inet kube-proxy; delete table ip foreign")
		check("other tables")
		nft(t, "add rule ip kube-proxy services drop")
		check("a rule", by(proxy.IPv4, "add rule"))
		nft(t, "delete element ip kube-proxy frontends { 10.96.0.1 . tcp . 80 }")
		check("an element", by(proxy.IPv4, "delete element"))
		nft(t, "add chain ip6 kube-proxy foreign; add set ip kube-proxy foreign { type ipv4_addr; }; add chain ip kube-proxy foreign")
		check("one transaction for both", by(proxy.IPv6, "add chain"), by(proxy.IPv4, "add set"))
		nft(t, "flush ruleset")
		if got := drainReports(t, reports, 2); len(got) != 2 || !strings.HasPrefix(got[0].What, "delete ") || got[0].Process != "nft" {
			t.Errorf("flush ruleset: %+v", got)
		}
		nft(t, "add table ip kube-proxy")
		check("a table", by(proxy.IPv4, "add table"))
	})
}

// A report that cannot be read counts as one that was lost: both tables may have changed.
func TestMonitorGarbage(t *testing.T) {
	const add, generation = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE, unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN
	report := func(typ uint16, port uint32, build func(*attributes)) []byte {
		b := messageHeader(typ, 0, 0)
		b = append(b[:12], host(port)...)
		a := attributes{append(b, nfproto(proxy.IPv6), 0, 0, 0)}
		build(&a)
		return finished(a.buf)
	}
	rule := report(add, 9, func(a *attributes) { a.str(unix.NFTA_RULE_TABLE, TableName) })
	writer := report(generation, 9, func(a *attributes) {
		a.u32(unix.NFTA_GEN_PROC_PID, 77)
		a.str(unix.NFTA_GEN_PROC_NAME, "felix")
	})
	lost := []Interference{{Family: proxy.IPv4, What: "unknown"}, {Family: proxy.IPv6, What: "unknown"}}
	for _, row := range []struct {
		name      string
		datagrams [][]byte
		want      []Interference
	}{
		{"one report", [][]byte{rule, rule, writer}, []Interference{{Family: proxy.IPv6, What: "add rule", Process: "felix", PID: 77}}},
		{"in one datagram", [][]byte{append(append([]byte{}, rule...), writer...)}, []Interference{{Family: proxy.IPv6, What: "add rule", Process: "felix", PID: 77}}},
		{"nothing of ours", [][]byte{report(add, 9, func(a *attributes) { a.str(unix.NFTA_RULE_TABLE, "kube-proxy-2") }), writer}, nil},
		{"our own", [][]byte{report(add, 5, func(a *attributes) { a.str(unix.NFTA_RULE_TABLE, TableName) }), writer}, nil},
		{"another subsystem", [][]byte{report(1<<8|unix.NFT_MSG_NEWRULE, 9, func(a *attributes) { a.str(unix.NFTA_RULE_TABLE, TableName) }), writer}, nil},
		{"cut off in the header", [][]byte{rule[:10]}, lost},
		{"cut off in the attributes", [][]byte{append(finished(append([]byte{}, rule[:24]...)), 0)}, lost},
		{"no family", [][]byte{finished(append([]byte{}, rule[:16]...))}, lost},
		{"a lost writer", [][]byte{rule, rule[:10], writer}, lost},
	} {
		var got []Interference
		m := monitor{table: TableName, own: []uint32{5}, report: func(i Interference) { got = append(got, i) }}
		for _, d := range row.datagrams {
			m.datagram(d)
		}
		if diff := cmp.Diff(row.want, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", row.name, diff)
		}
	}
}

// Every kind of change has a name.
func TestMessageNames(t *testing.T) {
	for typ, want := range map[uint16]string{
		unix.NFT_MSG_NEWTABLE: "add table", unix.NFT_MSG_DELTABLE: "delete table", unix.NFT_MSG_NEWCHAIN: "add chain", unix.NFT_MSG_DELCHAIN: "delete chain",
		unix.NFT_MSG_NEWRULE: "add rule", unix.NFT_MSG_DELRULE: "delete rule", unix.NFT_MSG_NEWSET: "add set", unix.NFT_MSG_DELSET: "delete set",
		unix.NFT_MSG_NEWSETELEM: "add element", unix.NFT_MSG_DELSETELEM: "delete element", 200: "message 200",
	} {
		if got := messageName(typ); got != want {
			t.Errorf("%d: %q, want %q", typ, got, want)
		}
	}
}
