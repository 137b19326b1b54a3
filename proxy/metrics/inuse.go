package metrics

import (
	k8s "k8s.io/component-base/metrics"

	"turnout/proxy"
)

// Metrics that kube-proxy has in some of its modes. They exist while the mode is in use; when it comes back, they begin anew. Those without a comment have the
// label ip_family.
const (
	// In mode nftables.
	NFTablesSyncFailures    = "kubeproxy_sync_proxy_rules_nftables_sync_failures_total"
	NFTablesCleanupFailures = "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total"
	// In modes iptables and ipvs.
	IptablesRestoreFailures = "kubeproxy_sync_proxy_rules_iptables_restore_failures_total"
	// In mode iptables.
	IptablesPartialRestoreFailures = "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total"
	IptablesRules                  = "kubeproxy_sync_proxy_rules_iptables_total" // table, ip_family; a gauge
	IptablesRulesWritten           = "kubeproxy_sync_proxy_rules_iptables_last"  // table, ip_family; a gauge
	// In mode iptables, if rules count packets; no label.
	InvalidDropped    = "kubeproxy_iptables_ct_state_invalid_dropped_packets_total"
	LocalhostAccepted = "kubeproxy_iptables_localhost_nodeports_accepted_packets_total"
)

// The modes, as the configuration calls them.
const (
	nftables = "nftables"
	iptables = "iptables"
	ipvs     = "ipvs"
)

// ofModes are the metrics that not every mode has.
type ofModes struct {
	nftSyncFailures, nftCleanupFailures *k8s.CounterVec
	restoreFailures, partialFailures    *k8s.CounterVec
	rules, written                      *k8s.GaugeVec
}

func (m *Metrics) defineOfModes(d *definer) {
	m.nftSyncFailures = d.counter(NFTablesSyncFailures, "Failed syncs in mode nftables.", labelFamily)
	m.nftCleanupFailures = d.counter(NFTablesCleanupFailures, "Failed attempts to remove what is no longer needed.", labelFamily)
	m.restoreFailures = d.counter(IptablesRestoreFailures, "Failed runs of iptables-restore; in mode ipvs, which runs none, failed syncs.", labelFamily)
	m.partialFailures = d.counter(IptablesPartialRestoreFailures, "Failed runs of iptables-restore for only what changed.", labelFamily)
	m.rules = d.gauge(IptablesRules, "Rules in the chains of the proxy.", labelTable, labelFamily)
	m.written = d.gauge(IptablesRulesWritten, "Rules that the last sync wrote which changed any.", labelTable, labelFamily)
}

// InUse notes the mode that programs the kernel from now on, and the Backends of the families in use.
func (m *Metrics) InUse(mode string, backends map[proxy.Family]proxy.Backend) {
	vectors := map[*k8s.CounterVec]bool{
		m.nftSyncFailures: mode == nftables, m.nftCleanupFailures: mode == nftables,
		m.restoreFailures: mode == iptables || mode == ipvs, m.partialFailures: mode == iptables,
	}
	for v, has := range vectors {
		if v.IsCreated() { // not if it is switched off (--disabled-metrics)
			v.Reset()
		}
		for f := range backends {
			if has {
				v.WithLabelValues(f.String())
			}
		}
	}
	for _, v := range [...]*k8s.GaugeVec{m.rules, m.written} {
		if v.IsCreated() {
			v.Reset()
		}
	}
	var counters []packetCounter
	for _, f := range proxy.Families {
		if c, ok := backends[f].(packetCounter); ok {
			counters = append(counters, c)
		}
	}
	m.packets.counters.Store(&counters)
	m.inUse.Store(&mode)
}

// SyncFailed counts a sync that failed.
func (m *Metrics) SyncFailed(f proxy.Family) {
	m.syncFailures.WithLabelValues(f.String()).Inc()
	switch mode := m.inUse.Load(); {
	case mode == nil:
	case *mode == nftables:
		m.nftSyncFailures.WithLabelValues(f.String()).Inc()
	case *mode == ipvs:
		m.restoreFailures.WithLabelValues(f.String()).Inc()
	}
}

// Reported notes what a Report tells of mode iptables, also of an Apply that failed.
func (m *Metrics) Reported(f proxy.Family, r proxy.Report) {
	if mode := m.inUse.Load(); mode == nil || *mode != iptables {
		return
	}
	m.restoreFailures.WithLabelValues(f.String()).Add(float64(r.Failures.All))
	m.partialFailures.WithLabelValues(f.String()).Add(float64(r.Failures.Changes))
	for _, t := range r.Tables {
		m.rules.WithLabelValues(t.Name, f.String()).Set(float64(t.Rules))
		m.written.WithLabelValues(t.Name, f.String()).Set(float64(t.Written))
	}
}
