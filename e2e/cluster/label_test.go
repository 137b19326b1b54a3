package cluster

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/e2e/cluster/plane"
	"turnout/proxy"
)

// nodeEvent waits until the own Node has an event whose note has a text in it.
func (c *cluster) nodeEvent(t *testing.T, kind, reason, text string) {
	t.Helper()
	eventually(t, "there is an event "+reason, func() string {
		events, err := c.plane.Admin.EventsV1().Events("").List(c.ctx, metav1.ListOptions{})
		must(t, err)
		var notes []string
		for _, e := range events.Items {
			if e.Regarding.Kind == "Node" && e.Regarding.Name == c.Cluster.Node && e.Type == kind && e.Reason == reason {
				notes = append(notes, e.Note)
			}
		}
		if all := strings.Join(notes, "\n"); !strings.Contains(all, text) {
			return "notes: " + all
		}
		return ""
	})
}

// inMode waits until the proxy says that it is in a mode for a reason.
func (c *cluster) inMode(t *testing.T, mode, reason string) {
	t.Helper()
	want := fmt.Sprintf("\nturnout_proxy_mode{mode=%q,reason=%q} 1\n", mode, reason)
	eventually(t, "the mode is "+mode, func() string {
		_, metrics, err := c.get(metricsServer, "/metrics")
		if err != nil {
			return err.Error()
		}
		if strings.Count(metrics, "\nturnout_proxy_mode{") != 1 || !strings.Contains(metrics, want) {
			return "not the one series" + want
		}
		return ""
	})
	if _, body, err := c.get(metricsServer, "/proxyMode"); err != nil || body != mode {
		t.Errorf("/proxyMode: %v, %s; want %s", err, body, mode)
	}
}

// TestLabel changes the mode by a label of the Node, with no more rights than every service proxy has: it follows live, and after a restart, and
// events on the Node tell.
func TestLabel(t *testing.T) {
	for _, name := range []string{"iptables", "ip6tables"} {
		if _, err := exec.LookPath(name + "-restore"); err != nil {
			t.Skipf("needs the command %s-restore: %v", name, err)
		}
	}
	s := ownScene(t)
	service := s.create(full("web"), "pod-2", "pod-5")
	works := func(when string) {
		t.Helper()
		s.follow()
		s.reached(service, when, "pod-2", "pod-5")
		s.probe(t, probe{"NodePort " + when, outside, 0, proxy.TCP, s.address(service, proxy.NodePort, proxy.IPv4, proxy.TCP), masqueraded("pod-2", "pod-5")})
	}
	label := func(mode any) {
		t.Helper()
		must(t, s.plane.PatchNode(s.ctx, "n1", map[string]any{"metadata": map[string]any{"labels": map[string]any{"turnout/proxy-mode": mode}}}))
	}
	s.inMode(t, "nftables", "configuration")
	works("without a label")
	label("iptables")
	s.inMode(t, "iptables", "node_label")
	s.nodeEvent(t, "Normal", "ProxyModeChosen", "mode iptables (node_label)")
	works("in the label's mode")
	label("iptable")
	s.nodeEvent(t, "Warning", "ProxyModeRefused", `the mode stays iptables: label turnout/proxy-mode: "iptable" is not a mode; did you mean "iptables"?`)
	s.inMode(t, "iptables", "node_label")
	label("iptables")

	must(t, s.proxy.Stop(patience))
	_, err := s.start(plane.NodeProxy)
	must(t, err)
	s.inMode(t, "iptables", "node_label")
	works("started with the label")
	label(nil)
	s.inMode(t, "nftables", "configuration")
	s.nodeEvent(t, "Normal", "ProxyModeChosen", "mode nftables (configuration)")
	works("without a label again")
}
