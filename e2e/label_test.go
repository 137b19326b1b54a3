package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
	"turnout/proxy/proxytest/objects"
)

// modeLabel is the label of the own Node that overrides the mode of the configuration.
const modeLabel = "turnout/proxy-mode"

// label changes what the label of the own Node asks for; "" takes the label away.
func (c *cluster) label(mode string) {
	c.t.Helper()
	c.set(c.labeled(mode))
}

// labeled is the own Node with the label that asks for a mode; without one if that is "".
func (c *cluster) labeled(mode string) *v1.Node {
	n := objects.Node(c.Cluster)
	if mode != "" {
		n.Labels[modeLabel] = mode
	}
	return n
}

// modeSeries are the samples of the metric that tells the mode.
func (p *process) modeSeries() (out []string) {
	samples, err := p.metrics()
	if err != nil {
		return []string{err.Error()}
	}
	for name, value := range samples {
		if strings.HasPrefix(name, "turnout_proxy_mode{") {
			out = append(out, fmt.Sprintf("%s %g", strings.TrimPrefix(name, "turnout_proxy_mode"), value))
		}
	}
	slices.Sort(out)
	return out
}

// inMode waits until the proxy says that it is in a mode for a reason, and checks that it says so everywhere.
func (p *process) inMode(mode, reason string) {
	p.t.Helper()
	want := []string{fmt.Sprintf(`{mode=%q,reason=%q} 1`, mode, reason)}
	var got []string
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if got = p.modeSeries(); slices.Equal(got, want) {
			break
		}
		if !p.running() || time.Now().After(end) {
			p.t.Fatalf("the metric of the mode is %v, want %v", got, want)
		}
	}
	if answer, err := p.get("127.0.0.1:10249", "/proxyMode"); err != nil || answer.body != mode {
		p.t.Errorf("/proxyMode: %v, %+v; want %s", err, answer, mode)
	}
	for path, text := range map[string]string{"/configz": fmt.Sprintf(`"mode":%q`, mode)} {
		told := func() bool {
			answer, err := p.get("127.0.0.1:10249", path)
			return err == nil && strings.Contains(answer.body, text)
		}
		eventually(p.t, path+" has "+text, told) // it follows when the mode has changed
	}
}

// hasOnly waits until of all modes only one has rules.
func (c *cluster) hasOnly(mode string) {
	c.t.Helper()
	eventually(c.t, "only mode "+mode+" has rules", func() bool { return slices.Equal(c.modesInKernel(), []string{mode}) })
}

// needSwitchable skips the test unless it can see the rules of several modes here.
func needSwitchable(t *testing.T) {
	t.Helper()
	if *modeFlag != "nftables" {
		t.Skip("starts in mode nftables only")
	}
	needs(t, "iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy", "nft")
}

// passersby are clients that connect at a steady pace, more than 200 times a second together, and connections that live long.
type passersby struct {
	*shop
	unchanged, masked *load
	flows             []*lab.Flow
}

// pace is the time from one connection of each of the eight clients to its next. A busy machine is slower.
const pace = 30 * time.Millisecond

// passBy has the clients come. They need the stock, and the Service dns.
func (c *cluster) passBy(dns *v1.Service) *passersby {
	c.t.Helper()
	web, each := newService(1, "web"), lab.LoadOptions{Parallel: 2, Interval: pace}
	start := func(host string, p proxy.Protocol, to netip.AddrPort) *load {
		return startLoad(c.t, c.Host(host), p, to, each)
	}
	s := &passersby{shop: &shop{cluster: c}}
	s.loads = []*load{
		start("pod-3", proxy.TCP, c.address(web, proxy.ClusterIP, proxy.IPv6, proxy.TCP)),
		start("client", proxy.TCP, c.address(web, proxy.NodePort, proxy.IPv4, proxy.TCP)),
	}
	s.unchanged = start("pod-1", proxy.TCP, c.address(dns, proxy.ClusterIP, proxy.IPv4, proxy.TCP))
	s.masked = start("client", proxy.UDP, c.address(dns, proxy.LoadBalancerIP, proxy.IPv6, proxy.UDP))
	s.flows = []*lab.Flow{flow(c.t, c, "pod-1", dns, proxy.ClusterIP, proxy.IPv4), flow(c.t, c, "client", dns, proxy.NodePort, proxy.IPv6)}
	return s
}

// judge ends everything: nothing failed or broke, and who connected was seen by its own address or by the node's, as in each of the modes.
func (s *passersby) judge() {
	s.t.Helper()
	reports := []lab.ClientsReport{s.unchanged.judge(), s.masked.judge()}
	for _, l := range s.loads {
		reports = append(reports, l.judge())
	}
	for a := range reports[0].Seen {
		if !slices.Contains(s.unchanged.host.Addrs, a) {
			s.t.Errorf("%s was seen as %s, want its own address", s.unchanged.what, a)
		}
	}
	for a := range reports[1].Seen {
		if !slices.Contains(s.NodeAddrs, a) {
			s.t.Errorf("%s was seen as %s, want an address of the node", s.masked.what, a)
		}
	}
	for _, f := range s.flows {
		if r := f.Stop(); !r.Intact() {
			s.t.Errorf("a UDP flow: %s; want all answered by the same server", r)
		}
	}
	connections, took := 0, time.Duration(0)
	for _, r := range reports {
		connections, took = connections+r.OK, max(took, r.Took)
	}
	s.t.Logf("%d connections in %v, %.0f a second", connections, took.Round(time.Millisecond), float64(connections)/took.Seconds())
}

// TestLabel changes the Node's label while the proxy runs, while clients connect and while endpoints come and go: from each mode to each other and back.
// No connection fails, and none is translated twice; afterwards only the new mode has rules.
func TestLabel(t *testing.T) {
	needSwitchable(t)
	c := newCluster(t)
	c.serve(c.allPods()...)
	dns := newService(3, "dns")
	c.set(append(c.stock("pod-1"), c.with(dns, on("pod-2"), on("pod-5"))...)...)
	p := c.start("--nodeport-addresses=primary")
	p.inMode("nftables", "configuration")
	s := c.passBy(dns)
	for _, step := range []struct{ label, mode, reason string }{
		{"iptables", "iptables-nft", "node_label"},
		{"nftables", "nftables", "node_label"},
		{"iptables", "iptables-legacy", "node_label"},
		{"auto", "nftables", "auto"},
		{"", "nftables", "configuration"},
	} {
		name, variant, _ := strings.Cut(step.mode, "-")
		c.hint(variant)
		c.label(step.label)
		p.inMode(name, step.reason)
		c.hasOnly(step.mode)
		s.churn(100*time.Millisecond, p.follow)
	}
	s.judge()
	p.logged("Node event", "ProxyModeChosen", "mode iptables (node_label)")
	p.logged("Node event", "ProxyModeChosen", "mode nftables (auto)")
}

// TestLabelAtStart starts the proxy with a label: it is in that mode from the beginning, and never in another.
func TestLabelAtStart(t *testing.T) {
	t.Parallel()
	needSwitchable(t)
	c, web := oneService(t)
	c.hint("legacy")
	c.label("iptables")
	p := c.start()
	p.inMode("iptables", "node_label")
	c.hasOnly("iptables-legacy")
	c.probe(t, c.bothFamilies("mode of the label", c.from(localPod), c.of(web, proxy.ClusterIP), kept("pod-2"))...)
	if strings.Contains(p.log.String(), `mode="nftables" reason=`) {
		t.Error("the proxy was in mode nftables before")
	}
	p.stop()
	c.label("ipv")
	p = c.start() // what the label asks for cannot be had
	p.inMode("nftables", "configuration")
	c.hasOnly("nftables")
	p.logged("Node event", "ProxyModeRefused", "the mode of the configuration is taken", `\"ipv\" is not a mode; did you mean \"ipvs\"?`)
	c.label("iptables")
	p.inMode("iptables", "node_label")
	c.hasOnly("iptables-legacy")
}

// TestLabelAndFile changes the mode in the configuration file while a label holds: it takes effect when the label is gone, without a restart.
func TestLabelAndFile(t *testing.T) {
	t.Parallel()
	needSwitchable(t)
	c := newCluster(t)
	c.symmetric()
	c.serve("pod-2")
	web := newService(1, "web")
	c.set(c.with(web, on("pod-2"))...)
	c.hint("nft")
	c.label("nftables")
	v := c.mountConfig("")
	p := c.start(v.arg())
	p.inMode("nftables", "node_label")
	v.set("mode: iptables\niptables: {masqueradeAll: true}\nconntrack: {maxPerCore: 0, min: 0, tcpCloseWaitTimeout: 33m}\n")
	p.until(reloads, 1) // since something else changed, too
	p.logged("The configuration file asks for another mode, which holds when the Node has no label any longer", `mode="iptables"`, `label="nftables"`)
	p.inMode("nftables", "node_label")
	probe := func(when string, want expectation) {
		t.Helper()
		c.probe(t, c.bothFamilies(when, c.from(localPod), c.of(web, proxy.ClusterIP), want)...)
	}
	probe("while the label holds", kept("pod-2"))
	c.label("")
	p.inMode("iptables", "configuration")
	c.hasOnly("iptables-nft")
	p.settle()
	probe("without a label", masqueraded("pod-2"))

	v.set("")
	select {
	case <-p.ended:
	case <-time.After(patience):
		t.Fatal("without a label, the proxy does not end when the mode in the file changes")
	}
	p.logged("turnout: configuration file changed", "mode from iptables to nftables")
	p = c.start(v.arg())
	p.inMode("nftables", "configuration")
	c.hasOnly("nftables")
	probe("started again", kept("pod-2"))
}
