package e2e

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// eventually waits for something that happens soon after a sync.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %v: not %s", patience, what)
		}
	}
}

// flow sends from one socket all the time, so that its conntrack entry never times out.
func flow(t *testing.T, c *cluster, host string, s *v1.Service, k proxy.Kind, f proxy.Family) *lab.Flow {
	t.Helper()
	flow, err := c.Host(host).Flow(proxy.UDP, c.address(s, k, f, proxy.UDP), 5*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { flow.Stop() })
	return flow
}

// reaches waits until a server answers a flow, and then checks that no other does.
func reaches(t *testing.T, f *lab.Flow, server string) {
	t.Helper()
	eventually(t, "answered by "+server, func() bool { return slices.Contains(f.Report().Servers, server) })
	before := f.Report()
	eventually(t, "answered further", func() bool { return f.Report().Answered > before.Answered+3 })
	if got := f.Report().Servers; got[len(got)-1] != server {
		t.Errorf("answered by %v, want %s last", got, server)
	}
}

// TestStaleUDPFlows has flows that never pause leave an endpoint that is gone.
func TestStaleUDPFlows(t *testing.T) {
	t.Parallel()
	for _, f := range proxy.Families {
		for _, k := range everyKind {
			t.Run(f.String()+"/"+k.String(), func(t *testing.T) {
				t.Parallel()
				c := newCluster(t)
				c.serve("pod-2", "pod-3", "pod-5")
				s := newService(1, "dns")
				c.set(c.with(s, on("pod-2"))...)
				p := c.start()
				c.flowFollows(t, p, s, flow(t, c, "client", s, k, f))
			})
		}
	}
	if proxyMode() != "iptables" {
		return
	}
	t.Run("NodePort of a loopback address", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t)
		c.serve("pod-2", "pod-3", "pod-5")
		s := newService(1, "dns")
		c.set(c.with(s, on("pod-2"))...)
		p := c.start("--nodeport-addresses=all")
		to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), c.address(s, proxy.NodePort, proxy.IPv4, proxy.UDP).Port())
		flow, err := c.Node().Flow(proxy.UDP, to, 5*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		defer flow.Stop()
		c.flowFollows(t, p, s, flow)
	})
}

// flowFollows changes the endpoints of a Service, pod-2 at first, and judges where a flow to it goes.
func (c *cluster) flowFollows(t *testing.T, p *process, s *v1.Service, flow *lab.Flow) {
	t.Helper()
	reaches(t, flow, "pod-2")

	// It still answers, but is an endpoint no longer.
	c.set(c.endpoints(s, on("pod-3"))...)
	p.follow()
	reaches(t, flow, "pod-3")

	// A terminating endpoint keeps its flows, also while there are others that are ready.
	c.set(c.endpoints(s, on("pod-3", terminating), on("pod-5"))...)
	p.follow()
	answered := flow.Report().Answered
	eventually(t, "answered further", func() bool { return flow.Report().Answered > answered+20 })
	if got := flow.Report().Servers; slices.Contains(got, "pod-5") {
		t.Errorf("answered by %v: a flow left an endpoint that still serves", got)
	}

	// Without any endpoint it is refused, though the last one still answers.
	c.set(c.endpoints(s)...)
	p.follow()
	eventually(t, "refused", func() bool { return pauses(flow) })

	c.set(c.endpoints(s, on("pod-5"))...)
	p.follow()
	reaches(t, flow, "pod-5")
}

// pauses tells that a flow is not answered while it sends some more.
func pauses(f *lab.Flow) bool {
	before := f.Report()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		now := f.Report()
		if now.Answered > before.Answered {
			return false
		}
		if now.Sent > before.Sent+20 {
			return true
		}
	}
	return false
}

// TestUDPFlowBeforeService has flows that began before anybody served their address reach the Service that then does.
func TestUDPFlowBeforeService(t *testing.T) {
	t.Parallel()
	for _, k := range everyKind {
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			c.serve("pod-2")
			s := newService(1, "dns")
			before := newService(1, "dns", clusterIP)
			if k == proxy.ClusterIP {
				before = newService(2, "another") // the ClusterIP belongs to nobody
			}
			c.set(c.with(before, on("pod-2"))...)
			p := c.start()
			flow := flow(t, c, "client", s, k, proxy.IPv4)
			eventually(t, "sending", func() bool { return flow.Report().Sent > 3 })
			if r := flow.Report(); r.Answered > 0 {
				t.Fatalf("served already: %v", r)
			}
			c.set(c.with(s, on("pod-2"))...)
			p.follow()
			reaches(t, flow, "pod-2")
		})
	}
}

// TestTCPFlowsStay leaves connections alone, whatever becomes of their endpoint or Service.
func TestTCPFlowsStay(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.serve("pod-2", "pod-3")
	s := newService(1, "web")
	c.set(c.with(s, on("pod-2"))...)
	p := c.start()
	var flows []*lab.Flow
	for _, f := range proxy.Families {
		for _, k := range everyKind {
			flow, err := c.Client().Flow(proxy.TCP, c.address(s, k, f, proxy.TCP), 5*time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			flows = append(flows, flow)
		}
	}
	c.set(c.endpoints(s, on("pod-2", terminating), on("pod-3"))...)
	p.follow()
	c.set(c.endpoints(s, on("pod-3"))...)
	p.follow()
	if !limited("frontend-gone") {
		c.remove(c.with(s)...)
		p.follow()
	}
	for _, f := range flows {
		before := f.Report().Answered
		eventually(t, "answered further", func() bool { r := f.Report(); return r.Err != nil || r.Answered > before+10 })
		if r := f.Stop(); !r.Intact() {
			t.Errorf("%v", r)
		}
	}
}
