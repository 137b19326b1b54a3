package compare

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	proxyconfig "k8s.io/kube-proxy/config/v1alpha1"

	"turnout/e2e/cluster/compare/beside"
	"turnout/proxy"
	"turnout/proxy/node"
	"turnout/proxy/proxytest"
	proxysync "turnout/proxy/sync"
)

// pair is both proxies with the same configuration file, each in a lab of its own; or two labs that should be alike for another reason,
// of which upstream has what is right.
type pair struct {
	*beside.Cluster
	t                 *testing.T
	turnout, upstream *beside.Side
	settings          settings
	path              string // of the configuration file
}

// settings are a part of the configuration, and what it means to the model.
type settings struct {
	name  string
	edit  func(*proxyconfig.KubeProxyConfiguration)
	model func(*proxysync.FactsConfig)
}

var usual = settings{name: "usual", edit: func(*proxyconfig.KubeProxyConfiguration) {}, model: func(*proxysync.FactsConfig) {}}

// unusual has everything that the configuration says about packets differ from its defaults.
var unusual = settings{
	name: "masquerade all, node ports everywhere, pods by interface",
	edit: func(c *proxyconfig.KubeProxyConfiguration) {
		c.NFTables.MasqueradeAll, c.NodePortAddresses = true, []string{"all"}
		c.DetectLocalMode, c.DetectLocal.InterfaceNamePrefix, c.ClusterCIDR = "InterfaceNamePrefix", "veth-", ""
		c.NFTables.MasqueradeBit = new(int32(9))
	},
	model: func(f *proxysync.FactsConfig) {
		f.Pods = node.PodDetection{Mode: node.InterfaceNamePrefix, InterfacePrefix: "veth-"}
		f.NodePorts, f.MasqueradeAll = node.NodePortConfig{All: true}, true
	},
}

// newPair builds two labs and starts both proxies in them.
func newPair(t *testing.T, s settings) *pair {
	t.Helper()
	program := binaries(t)
	p := newLabs(t, s, program.Turnout, program.KubeProxy)
	for _, side := range p.sides() {
		if err := side.Start("--config="+p.path, "-v=2"); err != nil {
			t.Fatal(err)
		}
	}
	// What a proxy learns of its node at the start must not come in between later.
	p.follow(nil)
	return p
}

// newLabs builds two labs and writes the configuration for the two programs that may be started in them.
func newLabs(t *testing.T, s settings, turnout, upstream string) *pair {
	t.Helper()
	p := &pair{Cluster: newCluster(t), t: t, settings: s}
	var errs [3]error
	p.turnout, errs[0] = p.NewSide("turnout", turnout, strayPorts...)
	p.upstream, errs[1] = p.NewSide("kube-proxy", upstream, strayPorts...)
	p.path, errs[2] = p.Config(strings.ReplaceAll(t.Name(), "/", "-")+".conf", s.edit)
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.finish)
	return p
}

func (p *pair) sides() []*beside.Side { return []*beside.Side{p.turnout, p.upstream} }

// finish ends both proxies, with their logs if the test failed.
func (p *pair) finish() {
	for _, side := range p.sides() {
		if p.t.Failed() && side.Process != nil {
			p.t.Logf("the end of the log of %s:\n%s", side.Name, lastLines(side.Log(), 60))
		}
		if err := side.Close(); err != nil {
			p.t.Error(err)
		}
	}
}

// set brings both proxies to serve objects, besides those that there are.
func (p *pair) set(objects ...metav1.Object) {
	p.t.Helper()
	p.follow(p.Set(p.t.Context(), objects...))
}

// follow waits until both proxies serve what was written.
func (p *pair) follow(written error) {
	p.t.Helper()
	if written != nil {
		p.t.Fatal(written)
	}
	if err := p.Settle(context.Background(), p.sides()...); err != nil {
		p.t.Fatal(err)
	}
}

// strayPorts are where packets that a proxy lets pass find a server: those of Services, and one that no Service has.
var strayPorts = []uint16{53, 80, 90, 443, 81}

// facts are what the model needs to know besides objects.
func (p *pair) facts() proxysync.FactsConfig {
	l := p.turnout.Lab
	f := proxysync.FactsConfig{
		NodePorts:     node.NodePortConfig{DefaultPrimary: true},
		Pods:          node.PodDetection{Mode: node.ClusterCIDR, ClusterCIDRs: l.ClusterCIDRs},
		MasqueradeBit: 14, ExternalIPs: true,
		Local: func(f proxy.Family) []netip.Addr { return proxytest.AddrsOf(f, l.NodeAddrs) },
	}
	p.settings.model(&f)
	return f
}

// lastLines is the end of a log, without the list of all flags that kube-proxy begins with.
func lastLines(log string, n int) string {
	lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(log), "\n"), func(line string) bool { return strings.Contains(line, "] FLAG: --") })
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
