package e2e

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// needsIPVS skips the test where the kernel has no IPVS. It has the module loaded, as a proxy would.
func needsIPVS(t *testing.T) {
	t.Helper()
	if err := lacksIPVS(); err != nil {
		t.Skipf("needs a kernel with IPVS: %v", err)
	}
}

// shortLived has IPVS forget connections soon after their end.
const shortLived = "--ipvs-tcpfin-timeout=1s"

// ipvsLeft tells what there is of mode ipvs on the node, "" if there is nothing.
func (c *cluster) ipvsLeft() string {
	c.t.Helper()
	var out []string
	if text := c.try("ip", "address", "show", "kube-ipvs0"); !strings.Contains(text, "does not exist") {
		out = append(out, text)
	}
	if text := c.try("nft", "list", "tables"); strings.Contains(text, "kube-proxy-ipvs") {
		out = append(out, text)
	}
	err := c.Node().Do(func() error {
		raw, err := os.ReadFile("/proc/thread-self/net/ip_vs")
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if lines := strings.Split(strings.TrimSpace(string(raw)), "\n"); len(lines) > 3 { // the heading
			out = append(out, strings.Join(lines[3:], "\n"))
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.Join(out, "\n")
}

// flowsIn opens connections that must live on, whatever modes come.
func (c *cluster) flowsIn(all *[]*lab.Flow) {
	c.t.Helper()
	web := newService(1, "web")
	for _, x := range []struct {
		host string
		kind proxy.Kind
		f    proxy.Family
	}{{"pod-3", proxy.ClusterIP, proxy.IPv4}, {"client", proxy.NodePort, proxy.IPv6}} {
		flow, err := c.Host(x.host).Flow(proxy.TCP, c.address(web, x.kind, x.f, proxy.TCP), 50*time.Millisecond)
		if err != nil {
			c.t.Fatal(err)
		}
		*all = append(*all, flow)
	}
}

// intact ends connections that must have lived on.
func (c *cluster) intact(flows []*lab.Flow) {
	c.t.Helper()
	for _, f := range flows {
		before := f.Report().Answered
		eventually(c.t, "answered further", func() bool { r := f.Report(); return r.Err != nil || r.Answered > before })
		if r := f.Stop(); !r.Intact() {
			c.t.Errorf("a connection was harmed: %v", r)
		}
	}
}

// TestSwitchIPVS restarts the proxy in mode ipvs, in another, and in ipvs again while connections through it still live. Clients connect all the while,
// and of the connections that were made in each mode none ends: what mode ipvs left goes with the last of its own.
func TestSwitchIPVS(t *testing.T) {
	needsIPVS(t)
	needs(t, "nft", "iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy", "ip")
	c := newCluster(t)
	c.serve(c.allPods()...)
	c.set(c.stock("pod-1")...)
	walk := []string{"nftables", "ipvs", "iptables-nft", "ipvs", "nftables"}
	p := c.startIn(walk[0])
	s := c.open()
	var flows []*lab.Flow
	c.flowsIn(&flows)
	for i, mode := range walk[1:] {
		t.Logf("from mode %s to mode %s", walk[i], mode)
		if i%2 == 0 {
			p.kill()
		} else {
			p.stop()
		}
		p = c.startIn(mode)
		c.hasOnly(mode)
		c.flowsIn(&flows)
		s.churn(200*time.Millisecond, p.follow)
	}
	if left := c.ipvsLeft(); !strings.Contains(left, "kube-ipvs0") || !strings.Contains(left, "kube-proxy-ipvs") {
		t.Errorf("connections through mode ipvs live, but there is only\n%s", left)
	}
	s.judge()
	c.intact(flows)
	t.Log("the connections have ended")
	c.noneLeft()
	c.set(c.stock("pod-1")...)
	p.follow()
	c.check(t, c.from(outside), proxy.TCP, c.address(newService(1, "web"), proxy.ClusterIP, proxy.IPv4, proxy.TCP), masqueraded("pod-1", "pod-2"))
}

// startIn starts the proxy in a mode and waits until the kernel follows.
func (c *cluster) startIn(mode string) *process {
	c.t.Helper()
	name, _, _ := strings.Cut(mode, "-")
	c.hint("nft")
	p := c.launch("--proxy-mode="+name, "--nodeport-addresses=primary", shortLived)
	p.follow()
	return p
}

// ipvsConnections lists what IPVS tracks, with states and the seconds until each is forgotten.
func (c *cluster) ipvsConnections() (text string) {
	c.t.Helper()
	err := c.Node().Do(func() error {
		raw, err := os.ReadFile("/proc/thread-self/net/ip_vs_conn")
		text = string(raw)
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return text
}

// noneLeft waits until mode ipvs has nothing on the node any longer.
func (c *cluster) noneLeft() {
	c.t.Helper()
	var left string
	defer func() {
		if c.t.Failed() {
			c.t.Logf("left:\n%s\n%s", left, c.ipvsConnections())
		}
	}()
	eventually(c.t, "everything of mode ipvs gone", func() bool {
		left = c.ipvsLeft()
		return left == ""
	})
}

// TestSwitchIPVSLive changes modes by the Node's label while the proxy runs: from each other mode to ipvs, away while connections through it live, and back before
// they end.
func TestSwitchIPVSLive(t *testing.T) {
	needsIPVS(t)
	needs(t, "nft", "iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy", "ip")
	c := newCluster(t)
	c.serve(c.allPods()...)
	c.set(c.stock("pod-1")...)
	p := c.startIn("nftables")
	s := c.open()
	var flows []*lab.Flow
	for _, mode := range []string{"ipvs", "nftables", "ipvs", "iptables", "ipvs", ""} {
		c.label(mode)
		if mode == "" {
			mode = "nftables" // what the flag says
		}
		t.Logf("to mode %s", mode)
		eventually(t, "in mode "+mode, func() bool {
			got, err := p.get(metricsServer, "/proxyMode")
			return err == nil && got.body == mode
		})
		c.hasOnly(strings.Replace(mode, "iptables", "iptables-nft", 1))
		c.flowsIn(&flows)
		s.churn(200*time.Millisecond, p.follow)
	}
	s.judge()
	c.intact(flows)
	t.Log("the connections have ended")
	c.noneLeft()
}
