package lab

import (
	"net/netip"
	"testing"
	"time"

	"turnout/proxy"
)

// Clients of a server that stays notice nothing, and those of one that goes away do.
func TestClients(t *testing.T) {
	l := ForTest(t)
	to := netip.AddrPortFrom(l.Host("pod-1").Addr(proxy.IPv4), 90)
	for _, p := range []proxy.Protocol{proxy.TCP, proxy.UDP} {
		stop, err := l.Host("pod-1").Serve(p, 90)
		if err != nil {
			t.Fatal(err)
		}
		for _, goes := range []bool{false, true} {
			c, err := l.Client().Clients(p, to, LoadOptions{Parallel: 2})
			if err != nil {
				t.Fatal(err)
			}
			await := func(enough func(ok, failed int) bool) {
				for end := time.Now().Add(patience); !enough(c.SoFar()) && time.Now().Before(end); time.Sleep(time.Millisecond) {
				}
			}
			await(func(ok, _ int) bool { return ok >= 20 })
			if goes {
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				await(func(_, failed int) bool { return failed > 0 })
			}
			r, err := c.Stop()
			if fault := r.Fault(20); (fault != "") != goes || err != nil {
				t.Errorf("%s, the server goes: %t: %q, %v: %s", p, goes, fault, err, r)
			}
		}
	}
	if _, err := l.Client().Clients(proxy.TCP, to, LoadOptions{}); err == nil {
		t.Error("clients connect to a port that nobody serves")
	}
}

func TestClientsFault(t *testing.T) {
	good := func() ClientsReport {
		return ClientsReport{LoadReport: LoadReport{OK: 2000}, Flow: &FlowReport{Sent: 9, Answered: 9, Servers: []string{"pod-1"}, Slowest: time.Millisecond}}
	}
	for name, row := range map[string]struct {
		spoil func(*ClientsReport)
		want  string
	}{
		"nothing":                {func(*ClientsReport) {}, ""},
		"failed":                 {func(r *ClientsReport) { r.Failed = 1 }, "connections failed"},
		"few":                    {func(r *ClientsReport) { r.OK = 19 }, "fewer than 20 connections"},
		"a second SYN":           {func(r *ClientsReport) { r.Again = 1 }, "connections came only by a second SYN"},
		"a machine that paused":  {func(r *ClientsReport) { r.Again, r.Flow.Slowest = 3, time.Second }, ""},
		"more than by the pause": {func(r *ClientsReport) { r.Again, r.Flow.Slowest = 4, time.Second }, "connections came only by a second SYN"},
		"the long one":           {func(r *ClientsReport) { r.Flow.Sent++ }, "the connection that stays open was harmed"},
		"no long one":            {func(r *ClientsReport) { r.Flow = nil }, ""},
	} {
		r := good()
		row.spoil(&r)
		if got := r.Fault(20); got != row.want {
			t.Errorf("%s: %q, want %q", name, got, row.want)
		}
	}
	const netstat = "TcpExt: SyncookiesSent TCPSynRetrans\nTcpExt: 0 7\nIpExt: InNoRoutes\nIpExt: 1\n"
	if n, err := counter(netstat, "TcpExt:", "TCPSynRetrans"); n != 7 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := counter(netstat, "TcpExt:", "TCPNothing"); err == nil {
		t.Error("a counter that is not there was found")
	}
}
