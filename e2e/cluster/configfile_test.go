package cluster

import (
	"testing"

	proxyconfig "k8s.io/kube-proxy/config/v1alpha1"

	"turnout/e2e/cluster/plane"
)

// TestConfigFile changes the configuration file, and looks for the events on the Node that tell of it: of each change one that says what has changed, or what is wrong.
func TestConfigFile(t *testing.T) {
	c := own(t)
	kubeconfig, err := c.plane.Kubeconfig("proxy", plane.NodeProxy)
	must(t, err)
	_, err = c.startWith(kubeconfig, plane.NodeProxy.User)
	must(t, err)
	for _, row := range []struct {
		edit                func(*proxyconfig.KubeProxyConfiguration)
		kind, reason, notes string
	}{
		{func(c *proxyconfig.KubeProxyConfiguration) { c.NFTables.MasqueradeAll = true }, "Normal", "ConfigurationReloaded", "nftables.masqueradeAll from false to true"},
		{func(c *proxyconfig.KubeProxyConfiguration) { c.OOMScoreAdj = new(int32(-998)) }, "Normal", "ConfigurationReloaded", "nftables.masqueradeAll from true to false, oomScoreAdj from -999 to -998"},
		{func(c *proxyconfig.KubeProxyConfiguration) { c.Mode, c.IPVS.Scheduler = "ipvs", "nonsense" }, "Warning", "ConfigurationInvalid", "mode: ipvs: this node cannot run mode ipvs"},
		{func(c *proxyconfig.KubeProxyConfiguration) { c.ClientConnection.Kubeconfig = "/nowhere" }, "Warning", "ConfigurationInvalid", "--kubeconfig=/nowhere (clientConnection.kubeconfig)"},
	} {
		_, err := c.plane.ProxyConfig("config.conf", kubeconfig, row.edit)
		must(t, err)
		c.nodeEvent(t, row.kind, row.reason, row.notes)
	}
}
