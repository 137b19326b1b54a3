package metrics

import (
	"net/http"
	"strconv"
	"sync/atomic"

	k8s "k8s.io/component-base/metrics"
	_ "k8s.io/component-base/metrics/prometheus/version" // adds kubernetes_build_info to the global registry

	"turnout/proxy"
)

const (
	labelFamily = "ip_family"
	labelPolicy = "traffic_policy"
	labelCode   = "code"
	labelReason = "reason"
)

// Metrics are all metrics of the proxy. Their methods may be called from any goroutine.
type Metrics struct {
	sync, fullSync, partialSync, networkProgramming *k8s.HistogramVec
	lastSync, lastQueued                            *k8s.GaugeVec
	endpointsPending, servicesPending               *k8s.GaugeVec
	endpointChanges, serviceChanges                 *k8s.CounterVec
	noLocalEndpoints                                *k8s.GaugeVec
	healthz, livez                                  *k8s.CounterVec
	conntrack                                       *k8s.HistogramVec
	conntrackDeleted                                *k8s.CounterVec

	programmed, rejected           *k8s.GaugeVec
	syncFailures, tableRepairs     *k8s.CounterVec
	operations                     *k8s.HistogramVec
	fullSyncs                      *k8s.CounterVec
	services, endpoints, frontends *k8s.GaugeVec
	affinitySwept                  *k8s.CounterVec
	manifestProblems               *k8s.GaugeVec

	configReloads, configReloadErrors *k8s.CounterVec
	configFileInUse                   *k8s.GaugeVec

	unreadable, mode *k8s.GaugeVec

	ofModes
	packets *packets
	inUse   atomic.Pointer[string] // the mode; nil if none is so far
}

// New makes the metrics and registers them, normally with legacyregistry.MustRegister, whose registry also has those of the
// Kubernetes libraries, the Go runtime and the process. Counters, histograms and queue lengths of the families in use (both
// if none is given) exist from the start, so that rates are right from the first event on; what reports a state appears when
// the state is known.
func New(register func(...k8s.Registerable), families ...proxy.Family) *Metrics {
	if len(families) == 0 {
		families = proxy.Families[:]
	}
	var d definer
	m := &Metrics{packets: newPackets()}
	m.defineShared(&d)
	m.defineOwn(&d)
	m.defineUnreadable(&d)
	m.defineMode(&d)
	m.defineOfModes(&d)
	register(d.defined...)
	m.begin(families)
	return m
}

func (m *Metrics) defineShared(d *definer) {
	m.sync = d.histogram(SyncDuration, "Time that a sync took, in seconds.", milliseconds(), labelFamily)
	m.fullSync = d.histogram(FullSyncDuration, "Time that a full sync took, in seconds.", milliseconds(), labelFamily)
	m.partialSync = d.histogram(PartialSyncDuration, "Time that a sync of only what changed took, in seconds.",
		milliseconds(), labelFamily)
	m.lastSync = d.gauge(LastSync, "When the last successful sync ended, in seconds since the epoch.", labelFamily)
	m.lastQueued = d.gauge(LastQueued, "When a sync was asked for last, in seconds since the epoch.", labelFamily)
	m.networkProgramming = d.histogram(NetworkProgramming,
		"Time from a change of endpoints in the cluster to its rules on this node, in seconds.", programmingBuckets(), labelFamily)
	m.endpointsPending = d.gauge(EndpointChangesPending, "Changes of EndpointSlices that wait for a sync.")
	m.endpointChanges = d.counter(EndpointChanges, "Changes of EndpointSlices.")
	m.servicesPending = d.gauge(ServiceChangesPending, "Changes of Services that wait for a sync.")
	m.serviceChanges = d.counter(ServiceChanges, "Changes of Services.")
	m.noLocalEndpoints = d.gauge(NoLocalEndpoints,
		"Service ports with traffic policy Local that have endpoints, but none on this node.", labelPolicy, labelFamily)
	m.healthz = d.counter(HealthzAnswers, "Answers of /healthz by HTTP status code.", labelCode)
	m.livez = d.counter(LivezAnswers, "Answers of /livez by HTTP status code.", labelCode)
	m.conntrack = d.histogram(ConntrackDuration, "Time that finding and deleting stale conntrack flows took, in seconds.",
		milliseconds(), labelFamily)
	m.conntrackDeleted = d.counter(ConntrackDeleted, "Stale conntrack flows that were deleted.", labelFamily)
}

func (m *Metrics) defineOwn(d *definer) {
	m.programmed = d.gauge(Programmed, "1 once the rules were programmed since the start, else 0.", labelFamily)
	m.rejected = d.gauge(Rejected, "Service ports that are not programmed because the kernel refuses them.", labelFamily)
	m.syncFailures = d.counter(SyncFailures, "Failed syncs, in any mode.", labelFamily)
	m.tableRepairs = d.counter(TableRepairs, "Times that the table was rebuilt because somebody else changed it.", labelFamily)
	m.operations = d.histogram(ApplyOperations, "Kernel objects and elements written or deleted by a sync.",
		k8s.ExponentialBuckets(1, 4, 11), labelFamily)
	m.fullSyncs = d.counter(FullSyncs, "Full syncs by reason.", labelFamily, labelReason)
	m.services = d.gauge(Services, "Service ports in the last programmed state.", labelFamily)
	m.endpoints = d.gauge(Endpoints, "Endpoints in the last programmed state.", labelFamily)
	m.frontends = d.gauge(Frontends, "Addresses and ports that clients can send to in the last programmed state.", labelFamily)
	m.affinitySwept = d.counter(AffinitySwept, "Session affinity entries removed because their endpoint is gone.", labelFamily)
	m.manifestProblems = d.gauge(ManifestProblems, "Problems in the manifests that were read last.")
	m.configReloads = d.counter(ConfigReloads, "Changes of the configuration file that took effect.")
	m.configReloadErrors = d.counter(ConfigReloadErrors, "Changes of the configuration file that were refused.")
	m.configFileInUse = d.gauge(ConfigFileInUse, "1 if the configuration in effect is that of the file, 0 if the file was refused.")
}

// begin makes the series that exist from the start.
func (m *Metrics) begin(families []proxy.Family) {
	for _, f := range families {
		for _, h := range []*k8s.HistogramVec{m.sync, m.fullSync, m.partialSync, m.networkProgramming, m.conntrack, m.operations} {
			h.WithLabelValues(f.String())
		}
		for _, c := range []*k8s.CounterVec{m.syncFailures, m.conntrackDeleted, m.tableRepairs, m.affinitySwept} {
			c.WithLabelValues(f.String())
		}
		for _, r := range reasons {
			m.fullSyncs.WithLabelValues(f.String(), string(r))
		}
		m.programmed.WithLabelValues(f.String()).Set(0)
	}
	for _, code := range []int{http.StatusOK, http.StatusServiceUnavailable} {
		m.healthz.WithLabelValues(strconv.Itoa(code))
		m.livez.WithLabelValues(strconv.Itoa(code))
	}
	for _, g := range []*k8s.GaugeVec{m.endpointsPending, m.servicesPending} {
		g.WithLabelValues().Set(0)
	}
	for _, c := range []*k8s.CounterVec{m.endpointChanges, m.serviceChanges, m.configReloads, m.configReloadErrors} {
		c.WithLabelValues()
	}
}
