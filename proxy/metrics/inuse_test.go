package metrics

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	k8s "k8s.io/component-base/metrics"

	"turnout/proxy"
)

// backend is a Backend whose rules may count.
type backend struct {
	proxy.Backend
	counts proxy.PacketCounts
	ok     bool
}

func (b *backend) Packets() (proxy.PacketCounts, bool) { return b.counts, b.ok }

// ofMode returns the series of those metrics that not every mode has, with their values.
func ofMode(t *testing.T, r k8s.KubeRegistry) map[string]float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if !strings.Contains(f.GetName(), "_nftables_") && !strings.Contains(f.GetName(), "_iptables_") {
			continue
		}
		for _, s := range f.GetMetric() {
			name := f.GetName()
			for _, l := range s.GetLabel() {
				name += " " + l.GetValue()
			}
			out[name] = s.GetCounter().GetValue() + s.GetGauge().GetValue()
		}
	}
	return out
}

func wantOfMode(t *testing.T, r k8s.KubeRegistry, what string, want map[string]float64) {
	t.Helper()
	if diff := cmp.Diff(want, ofMode(t, r)); diff != "" {
		t.Errorf("%s: -want +got:\n%s", what, diff)
	}
}

func newModesTest() (*Metrics, k8s.KubeRegistry) {
	m, r := newTest()
	r.CustomMustRegister(m.Packets())
	return m, r
}

// Metrics of a mode are there while it is in use, and only then.
func TestInUse(t *testing.T) {
	m, r := newModesTest()
	all := proxy.Report{Failures: proxy.Failures{All: 3, Changes: 1}, Tables: []proxy.Table{{Name: "nat", Rules: 50, Written: 7}, {Name: "filter", Rules: 20}}}
	m.SyncFailed(proxy.IPv4)
	m.Reported(proxy.IPv4, all)
	wantOfMode(t, r, "no mode", map[string]float64{})

	none := map[proxy.Family]proxy.Backend{proxy.IPv4: nil, proxy.IPv6: nil}
	m.InUse("nftables", none)
	m.SyncFailed(proxy.IPv4)
	m.SyncFailed(proxy.IPv4)
	m.Reported(proxy.IPv4, all)
	wantOfMode(t, r, "nftables", map[string]float64{
		NFTablesSyncFailures + " IPv4": 2, NFTablesSyncFailures + " IPv6": 0, NFTablesCleanupFailures + " IPv4": 0, NFTablesCleanupFailures + " IPv6": 0,
	})

	counting := &backend{counts: proxy.PacketCounts{InvalidDropped: 5, LocalhostAccepted: 6}, ok: true}
	m.InUse("iptables", map[proxy.Family]proxy.Backend{proxy.IPv4: &backend{}, proxy.IPv6: counting})
	m.SyncFailed(proxy.IPv6) // such as that what is there could not be read
	m.Reported(proxy.IPv6, all)
	m.Reported(proxy.IPv6, proxy.Report{Failures: proxy.Failures{All: 1}})
	wantIptables := map[string]float64{
		IptablesRestoreFailures + " IPv4": 0, IptablesRestoreFailures + " IPv6": 4, IptablesPartialRestoreFailures + " IPv4": 0, IptablesPartialRestoreFailures + " IPv6": 1,
		IptablesRules + " IPv6 nat": 50, IptablesRules + " IPv6 filter": 20, IptablesRulesWritten + " IPv6 nat": 7, IptablesRulesWritten + " IPv6 filter": 0,
		InvalidDropped: 5, LocalhostAccepted: 6,
	}
	wantOfMode(t, r, "iptables", wantIptables)
	counting.counts.InvalidDropped++
	wantIptables[InvalidDropped]++
	wantOfMode(t, r, "iptables, a packet later", wantIptables)
	counting.ok = false
	delete(wantIptables, InvalidDropped)
	delete(wantIptables, LocalhostAccepted)
	wantOfMode(t, r, "iptables that does not count", wantIptables)
	counting.ok = true

	m.InUse("ipvs", none)
	m.SyncFailed(proxy.IPv4)
	m.Reported(proxy.IPv4, all)
	wantOfMode(t, r, "ipvs", map[string]float64{IptablesRestoreFailures + " IPv4": 1, IptablesRestoreFailures + " IPv6": 0})

	m.InUse("nftables", map[proxy.Family]proxy.Backend{proxy.IPv4: nil})
	wantOfMode(t, r, "nftables again, for one family", map[string]float64{NFTablesSyncFailures + " IPv4": 0, NFTablesCleanupFailures + " IPv4": 0})
	want(t, r, head(SyncFailures, "counter", "Failed syncs, in any mode.")+SyncFailures+`{ip_family="IPv4"} 4`+"\n"+SyncFailures+`{ip_family="IPv6"} 1`+"\n", SyncFailures)
}

// Types, labels and texts of the metrics of mode iptables.
func TestIptablesText(t *testing.T) {
	m, r := newModesTest()
	m.InUse("iptables", map[proxy.Family]proxy.Backend{proxy.IPv4: &backend{counts: proxy.PacketCounts{InvalidDropped: 1 << 40}, ok: true}})
	m.Reported(proxy.IPv4, proxy.Report{Tables: []proxy.Table{{Name: "nat", Rules: 50, Written: 7}}})
	want(t, r, head(IptablesRules, "gauge", "Rules in the chains of the proxy.")+IptablesRules+`{ip_family="IPv4",table="nat"} 50`+"\n", IptablesRules)
	want(t, r, head(IptablesRulesWritten, "gauge", "Rules that the last sync wrote which changed any.")+IptablesRulesWritten+`{ip_family="IPv4",table="nat"} 7`+"\n", IptablesRulesWritten)
	want(t, r, head(InvalidDropped, "counter", "Packets that were not forwarded because connection tracking cannot place them.")+InvalidDropped+" 1.099511627776e+12\n", InvalidDropped)
	want(t, r, head(LocalhostAccepted, "counter", "Connections to NodePorts on loopback addresses.")+LocalhostAccepted+" 0\n", LocalhostAccepted)
	want(t, r, head(IptablesRestoreFailures, "counter", "Failed runs of iptables-restore; in mode ipvs, which runs none, failed syncs.")+IptablesRestoreFailures+`{ip_family="IPv4"} 0`+"\n",
		IptablesRestoreFailures)
	want(t, r, head(IptablesPartialRestoreFailures, "counter", "Failed runs of iptables-restore for only what changed.")+IptablesPartialRestoreFailures+`{ip_family="IPv4"} 0`+"\n",
		IptablesPartialRestoreFailures)
}
