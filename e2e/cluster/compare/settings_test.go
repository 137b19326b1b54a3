package compare

import (
	"slices"
	"testing"

	proxyconfig "k8s.io/kube-proxy/config/v1alpha1"

	"turnout/proxy"
	proxysync "turnout/proxy/sync"
)

// TestSettings compares packets under other settings than TestMatrix and TestRandom have, with fewer Services.
func TestSettings(t *testing.T) {
	for name, edit := range map[string]func(*proxyconfig.KubeProxyConfiguration){
		"pods by the node's prefix, node ports by prefix": func(c *proxyconfig.KubeProxyConfiguration) {
			c.DetectLocalMode, c.ClusterCIDR = "NodeCIDR", ""
			c.NodePortAddresses = []string{"192.168.51.0/24"} // and all of IPv6, where none is named
		},
		"pods not recognised, node ports on nothing": func(c *proxyconfig.KubeProxyConfiguration) {
			c.ClusterCIDR, c.NodePortAddresses = "", []string{"192.0.2.0/24", "2001:db8::/32"}
		},
		"pods by a bridge, node ports by keyword and prefix, no external IPs": func(c *proxyconfig.KubeProxyConfiguration) {
			c.DetectLocalMode, c.DetectLocal.BridgeInterface = "BridgeInterface", "veth-pod-1"
			c.NodePortAddresses = []string{"primary", "10.244.0.0/16", "fd51::/64"}
			c.FeatureGates = map[string]bool{"AllowServiceExternalIPs": false}
		},
		"masquerade all, pods of one family": func(c *proxyconfig.KubeProxyConfiguration) {
			c.NFTables.MasqueradeAll, c.ClusterCIDR = true, "10.244.0.0/16"
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, settings{name: name, edit: edit, model: func(*proxysync.FactsConfig) {}})
			c := p.turnout.Lab.Cluster
			all := slices.Concat(policies(c, "none", "both", "elsewhere", "host"), oddities(c))
			p.set(all...)
			list := slices.DeleteFunc(packets(c, all), func(p packet) bool { return superfluous(p) || p.Protocol != proxy.TCP })
			answered, unanswered := p.compare(t, list)
			t.Logf("%d packets compared, %d answered, %d not", len(list), answered, unanswered)
			if min(answered, unanswered) < len(list)/20 {
				t.Errorf("%d packets were answered and %d not: that does not say much", answered, unanswered)
			}
		})
	}
}
