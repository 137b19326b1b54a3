package metrics

import (
	"strings"
	"testing"
	"time"

	k8s "k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/testutil"

	"turnout/proxy"
)

func newTest(families ...proxy.Family) (*Metrics, k8s.KubeRegistry) {
	r := k8s.NewKubeRegistry()
	return New(r.MustRegister, families...), r
}

// want compares whole series, and nothing but those of the names given.
func want(t *testing.T, r k8s.KubeRegistry, text string, names ...string) {
	t.Helper()
	if err := testutil.GatherAndCompare(r, strings.NewReader(text), names...); err != nil {
		t.Error(err)
	}
}

const (
	msBuckets   = "0.001 0.002 0.004 0.008 0.016 0.032 0.064 0.128 0.256 0.512 1.024 2.048 4.096 8.192 16.384 +Inf"
	progBuckets = "0 0.25 0.5 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 " +
		"39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 65 70 75 80 85 90 95 100 105 110 115 120 150 180 210 240 " +
		"270 300 +Inf"
	opBuckets = "1 4 16 64 256 1024 4096 16384 65536 262144 1.048576e+06 +Inf"
)

// histogram writes one series: counts are those of the buckets, of which the last is repeated to the end.
func histogram(name, family, buckets, sum string, counts ...string) string {
	var b strings.Builder
	count := ""
	for i, le := range strings.Fields(buckets) {
		if i < len(counts) {
			count = counts[i]
		}
		b.WriteString(name + `_bucket{ip_family="` + family + `",le="` + le + `"} ` + count + "\n")
	}
	b.WriteString(name + `_sum{ip_family="` + family + `"} ` + sum + "\n")
	b.WriteString(name + `_count{ip_family="` + family + `"} ` + count + "\n")
	return b.String()
}

func head(name, kind, help string) string {
	return "# HELP " + name + " [ALPHA] " + help + "\n# TYPE " + name + " " + kind + "\n"
}

func TestSeriesAtTheStart(t *testing.T) {
	_, r := newTest()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, f := range families {
		got[f.GetName()] = len(f.GetMetric())
	}
	for name, series := range map[string]int{
		SyncDuration: 2, FullSyncDuration: 2, PartialSyncDuration: 2, NetworkProgramming: 2, ConntrackDuration: 2,
		SyncFailures: 2, ConntrackDeleted: 2, HealthzAnswers: 2, LivezAnswers: 2,
		EndpointChanges: 1, EndpointChangesPending: 1, ServiceChanges: 1, ServiceChangesPending: 1,
		ConfigReloads: 1, ConfigReloadErrors: 1,
		Programmed: 2, TableRepairs: 2, ApplyOperations: 2, FullSyncs: 8, AffinitySwept: 2,
	} {
		if got[name] != series {
			t.Errorf("%s has %d series, want %d", name, got[name], series)
		}
		delete(got, name)
	}
	if len(got) != 0 {
		t.Errorf("series of what is not known yet: %v", got)
	}
}

func TestOnlyFamiliesInUse(t *testing.T) {
	_, r := newTest(proxy.IPv6)
	want(t, r, head(SyncFailures, "counter", "Failed syncs, in any mode.")+SyncFailures+`{ip_family="IPv6"} 0`+"\n", SyncFailures)
}

func TestSyncDurations(t *testing.T) {
	m, r := newTest(proxy.IPv4)
	m.SyncObserved(proxy.IPv4, true, 3*time.Millisecond)
	m.SyncObserved(proxy.IPv4, false, 750*time.Microsecond)
	want(t, r, head(SyncDuration, "histogram", "Time that a sync took, in seconds.")+
		histogram(SyncDuration, "IPv4", msBuckets, "0.00375", "1", "1", "2"), SyncDuration)
	want(t, r, head(FullSyncDuration, "histogram", "Time that a full sync took, in seconds.")+
		histogram(FullSyncDuration, "IPv4", msBuckets, "0.003", "0", "0", "1"), FullSyncDuration)
	want(t, r, head(PartialSyncDuration, "histogram", "Time that a sync of only what changed took, in seconds.")+
		histogram(PartialSyncDuration, "IPv4", msBuckets, "0.00075", "1"), PartialSyncDuration)
}

func TestNetworkProgramming(t *testing.T) {
	m, r := newTest(proxy.IPv6)
	m.NetworkProgrammed(proxy.IPv6, 400*time.Millisecond)
	m.NetworkProgrammed(proxy.IPv6, -time.Second)
	want(t, r, head(NetworkProgramming, "histogram",
		"Time from a change of endpoints in the cluster to its rules on this node, in seconds.")+
		histogram(NetworkProgramming, "IPv6", progBuckets, "0.4", "1", "1", "2"), NetworkProgramming)
}

func TestConntrack(t *testing.T) {
	m, r := newTest(proxy.IPv4)
	m.ConntrackReconciled(proxy.IPv4, 2*time.Millisecond, 3)
	m.ConntrackReconciled(proxy.IPv4, 20*time.Second, 4)
	want(t, r, head(ConntrackDuration, "histogram", "Time that finding and deleting stale conntrack flows took, in seconds.")+
		histogram(ConntrackDuration, "IPv4", msBuckets, "20.002", "0", "1", "1", "1", "1", "1", "1", "1", "1", "1", "1", "1", "1",
			"1", "1", "2"), ConntrackDuration)
	want(t, r, head(ConntrackDeleted, "counter", "Stale conntrack flows that were deleted.")+
		ConntrackDeleted+`{ip_family="IPv4"} 7`+"\n", ConntrackDeleted)
}

func TestApplied(t *testing.T) {
	m, r := newTest(proxy.IPv4)
	m.Applied(proxy.IPv4, 0, 2)
	m.Applied(proxy.IPv4, 5000, 1)
	want(t, r, head(ApplyOperations, "histogram", "Kernel objects and elements written or deleted by a sync.")+
		histogram(ApplyOperations, "IPv4", opBuckets, "5000", "1", "1", "1", "1", "1", "1", "1", "2"), ApplyOperations)
	want(t, r, head(Rejected, "gauge", "Service ports that are not programmed because the kernel refuses them.")+
		Rejected+`{ip_family="IPv4"} 1`+"\n", Rejected)
}

func TestGaugesAndCounters(t *testing.T) {
	m, r := newTest()
	at := time.Unix(1750000000, 250_000_000)
	m.SyncQueued(proxy.IPv4, at)
	m.SyncSucceeded(proxy.IPv4, at.Add(time.Second))
	m.SyncFailed(proxy.IPv6)
	m.TableRepaired(proxy.IPv4)
	m.EndpointChanged(3)
	m.ServiceChanged(2)
	m.Pending(5, 7)
	m.NoLocalEndpoints(proxy.IPv4, 1, 2)
	m.NoLocalEndpoints(proxy.IPv6, 0, 3)
	m.Sizes(proxy.IPv4, 10, 20, 30)
	m.HealthzAnswered(503)
	m.LivezAnswered(200)
	m.AffinityEntriesSwept(proxy.IPv6, 9)
	m.ManifestProblemsFound(4)
	m.ConfigReloaded()
	m.ConfigReloaded()
	m.ConfigRefused()
	m.FullSync(proxy.IPv4, ReasonError)

	for name, c := range map[string]struct{ kind, help, series string }{
		LastQueued: {"gauge", "When a sync was asked for last, in seconds since the epoch.", `{ip_family="IPv4"} 1.75000000025e+09`},
		LastSync: {"gauge", "When the last successful sync ended, in seconds since the epoch.",
			`{ip_family="IPv4"} 1.75000000125e+09`},
		Programmed:             {"gauge", "1 once the rules were programmed since the start, else 0.", `{ip_family="IPv4"} 1|{ip_family="IPv6"} 0`},
		SyncFailures:           {"counter", "Failed syncs, in any mode.", `{ip_family="IPv4"} 0|{ip_family="IPv6"} 1`},
		TableRepairs:           {"counter", "Times that the table was rebuilt because somebody else changed it.", `{ip_family="IPv4"} 1|{ip_family="IPv6"} 0`},
		EndpointChanges:        {"counter", "Changes of EndpointSlices.", ` 3`},
		EndpointChangesPending: {"gauge", "Changes of EndpointSlices that wait for a sync.", ` 7`},
		ServiceChanges:         {"counter", "Changes of Services.", ` 2`},
		ServiceChangesPending:  {"gauge", "Changes of Services that wait for a sync.", ` 5`},
		NoLocalEndpoints: {"gauge", "Service ports with traffic policy Local that have endpoints, but none on this node.",
			`{ip_family="IPv4",traffic_policy="external"} 2|{ip_family="IPv4",traffic_policy="internal"} 1|` +
				`{ip_family="IPv6",traffic_policy="external"} 3|{ip_family="IPv6",traffic_policy="internal"} 0`},
		Services:           {"gauge", "Service ports in the last programmed state.", `{ip_family="IPv4"} 10`},
		Endpoints:          {"gauge", "Endpoints in the last programmed state.", `{ip_family="IPv4"} 20`},
		Frontends:          {"gauge", "Addresses and ports that clients can send to in the last programmed state.", `{ip_family="IPv4"} 30`},
		HealthzAnswers:     {"counter", "Answers of /healthz by HTTP status code.", `{code="200"} 0|{code="503"} 1`},
		LivezAnswers:       {"counter", "Answers of /livez by HTTP status code.", `{code="200"} 1|{code="503"} 0`},
		AffinitySwept:      {"counter", "Session affinity entries removed because their endpoint is gone.", `{ip_family="IPv4"} 0|{ip_family="IPv6"} 9`},
		ManifestProblems:   {"gauge", "Problems in the manifests that were read last.", ` 4`},
		ConfigReloads:      {"counter", "Changes of the configuration file that took effect.", ` 2`},
		ConfigReloadErrors: {"counter", "Changes of the configuration file that were refused.", ` 1`},
		ConfigFileInUse:    {"gauge", "1 if the configuration in effect is that of the file, 0 if the file was refused.", ` 0`},
		FullSyncs: {"counter", "Full syncs by reason.",
			`{ip_family="IPv4",reason="error"} 1|{ip_family="IPv4",reason="foreign"} 0|` +
				`{ip_family="IPv4",reason="layout"} 0|{ip_family="IPv4",reason="start"} 0|` +
				`{ip_family="IPv6",reason="error"} 0|{ip_family="IPv6",reason="foreign"} 0|` +
				`{ip_family="IPv6",reason="layout"} 0|{ip_family="IPv6",reason="start"} 0`},
	} {
		text := head(name, c.kind, c.help)
		for s := range strings.SplitSeq(c.series, "|") {
			text += name + s + "\n"
		}
		want(t, r, text, name)
	}
}

// A table is unreadable until it is read again; in another mode nobody reads any.
func TestTablesRead(t *testing.T) {
	m, r := newTest()
	const help = "1 if rules of another program keep the programs of iptables from reading the table, else 0."
	m.TablesRead(proxy.IPv4, map[string][]string{"nat": nil, "filter": {"rule handle 7", "rule handle 8"}})
	m.TablesRead(proxy.IPv6, map[string][]string{"nat": nil})
	want(t, r, head(TableUnreadable, "gauge", help)+TableUnreadable+`{ip_family="IPv4",table="filter"} 1`+"\n"+TableUnreadable+`{ip_family="IPv4",table="nat"} 0`+"\n"+
		TableUnreadable+`{ip_family="IPv6",table="nat"} 0`+"\n", TableUnreadable)
	m.TablesRead(proxy.IPv4, map[string][]string{"nat": nil, "filter": nil})
	m.TablesRead(proxy.IPv6, nil)
	want(t, r, head(TableUnreadable, "gauge", help)+TableUnreadable+`{ip_family="IPv4",table="filter"} 0`+"\n"+TableUnreadable+`{ip_family="IPv4",table="nat"} 0`+"\n", TableUnreadable)
}
