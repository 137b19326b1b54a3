package e2e

import (
	"fmt"
	"maps"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestMetricsOfIptables compares the metrics of mode iptables with the kernel, in both variants, and has them go when another mode is in use.
func TestMetricsOfIptables(t *testing.T) {
	if *modeFlag != "nftables" {
		t.Skip("runs in mode nftables only")
	}
	for _, variant := range []string{"nft", "legacy"} {
		t.Run(variant, func(t *testing.T) {
			if _, err := exec.LookPath("iptables-" + variant + "-save"); err != nil {
				t.Skipf("needs iptables: %v", err)
			}
			c := newCluster(t)
			c.hintAt(variant)
			c.set(c.stock("pod-1")...)
			p := c.start("--proxy-mode=iptables")
			want := p.rulesInKernel(variant)
			got := p.series("kubeproxy_sync_proxy_rules_iptables_total")
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("rules: -in the kernel +in the metric:\n%s", diff)
			}
			for _, name := range []string{"restore_failures_total", "partial_restore_failures_total"} {
				none := map[string]float64{`{ip_family="IPv4"}`: 0, `{ip_family="IPv6"}`: 0}
				if diff := cmp.Diff(none, p.series("kubeproxy_sync_proxy_rules_iptables_"+name)); diff != "" {
					t.Errorf("%s: -want +got:\n%s", name, diff)
				}
			}
			if counting := !strings.Contains(p.log.String(), "packets are not counted"); counting {
				p.countInvalid(t)
			} else {
				t.Log("the kernel or the programs cannot count packets")
			}

			c.label("nftables")
			eventually(t, "only metrics of mode nftables are there", func() bool {
				names := p.namesOfModes()
				return slices.Equal(names, []string{"kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total", "kubeproxy_sync_proxy_rules_nftables_sync_failures_total"})
			})
		})
	}
}

// series returns the samples of a metric by their labels.
func (p *process) series(name string) map[string]float64 {
	p.t.Helper()
	all, err := p.metrics()
	if err != nil {
		p.t.Fatal(err)
	}
	out := map[string]float64{}
	for series, value := range all {
		if labels, ok := strings.CutPrefix(series, name); ok && (labels == "" || labels[0] == '{') {
			out[labels] = value
		}
	}
	return out
}

// namesOfModes are the names of metrics that not every mode has.
func (p *process) namesOfModes() []string {
	all, err := p.metrics()
	if err != nil {
		p.t.Fatal(err)
	}
	names := map[string]bool{}
	for series := range all {
		if name, _, _ := strings.Cut(series, "{"); strings.HasPrefix(name, "kubeproxy_") && (strings.Contains(name, "_iptables_") || strings.Contains(name, "_nftables_")) {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// rulesInKernel counts the rules in the proxy's chains.
func (p *process) rulesInKernel(variant string) map[string]float64 {
	p.t.Helper()
	out := map[string]float64{}
	for family, name := range map[string]string{"IPv4": "iptables-", "IPv6": "ip6tables-"} {
		for _, table := range []string{"nat", "filter"} {
			labels := fmt.Sprintf("{ip_family=%q,table=%q}", family, table)
			for l := range strings.Lines(p.try(name+variant+"-save", "-t", table)) {
				if strings.HasPrefix(l, "-A KUBE-") {
					out[labels]++
				}
			}
		}
	}
	return out
}

// countInvalid sends packets that belong to no connection, and looks for them in the metric.
func (p *process) countInvalid(t *testing.T) {
	const dropped, localhost, packets = "kubeproxy_iptables_ct_state_invalid_dropped_packets_total", "kubeproxy_iptables_localhost_nodeports_accepted_packets_total", 4
	none := map[string]float64{"": 0}
	for _, name := range []string{dropped, localhost} {
		if diff := cmp.Diff(none, p.series(name)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
	err := p.Client().Do(func() error {
		c, err := net.Dial("ip4:tcp", "10.244.1.2")
		if err != nil {
			return err
		}
		defer c.Close()
		for range packets {
			reset := []byte{0x80, 0, 0x1f, 0x90, 0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 1 << 2, 0, 0, 0, 0, 0, 0}
			if _, err := c.Write(reset); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "all packets are counted", func() bool { return p.series(dropped)[""] == packets })
}
