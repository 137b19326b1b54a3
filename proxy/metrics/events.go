package metrics

import (
	"strconv"
	"time"

	"turnout/proxy"
)

// SyncObserved counts a sync, successful or not, and how long it took.
func (m *Metrics) SyncObserved(f proxy.Family, full bool, took time.Duration) {
	m.sync.WithLabelValues(f.String()).Observe(took.Seconds())
	if full {
		m.fullSync.WithLabelValues(f.String()).Observe(took.Seconds())
	} else {
		m.partialSync.WithLabelValues(f.String()).Observe(took.Seconds())
	}
}

// SyncQueued notes when a sync was asked for.
func (m *Metrics) SyncQueued(f proxy.Family, at time.Time) {
	m.lastQueued.WithLabelValues(f.String()).Set(seconds(at))
}

// SyncSucceeded notes when a sync succeeded; from now on the family counts as programmed.
func (m *Metrics) SyncSucceeded(f proxy.Family, at time.Time) {
	m.lastSync.WithLabelValues(f.String()).Set(seconds(at))
	m.programmed.WithLabelValues(f.String()).Set(1)
}

// FullSync counts a full sync.
func (m *Metrics) FullSync(f proxy.Family, why FullSyncReason) {
	m.fullSyncs.WithLabelValues(f.String(), string(why)).Inc()
}

// Applied notes the contents of a Report: how much was written, and how many Service ports are left out.
func (m *Metrics) Applied(f proxy.Family, operations, rejected int) {
	m.operations.WithLabelValues(f.String()).Observe(float64(operations))
	m.rejected.WithLabelValues(f.String()).Set(float64(rejected))
}

// TableRepaired counts a rebuild that was needed because somebody else changed our table.
func (m *Metrics) TableRepaired(f proxy.Family) { m.tableRepairs.WithLabelValues(f.String()).Inc() }

// NetworkProgrammed notes how long after a change of endpoints in the cluster its rules were in place. A negative time, which
// comes from clocks that differ, counts as zero.
func (m *Metrics) NetworkProgrammed(f proxy.Family, latency time.Duration) {
	m.networkProgramming.WithLabelValues(f.String()).Observe(max(0, latency.Seconds()))
}

// EndpointChanged counts changes of EndpointSlices.
func (m *Metrics) EndpointChanged(n int) { m.endpointChanges.WithLabelValues().Add(float64(n)) }

// ServiceChanged counts changes of Services.
func (m *Metrics) ServiceChanged(n int) { m.serviceChanges.WithLabelValues().Add(float64(n)) }

// Pending notes how many changes wait for a sync.
func (m *Metrics) Pending(services, endpointSlices int) {
	m.servicesPending.WithLabelValues().Set(float64(services))
	m.endpointsPending.WithLabelValues().Set(float64(endpointSlices))
}

// NoLocalEndpoints notes how many Service ports have a Local traffic policy (internal, external) and endpoints, but none here.
func (m *Metrics) NoLocalEndpoints(f proxy.Family, internal, external int) {
	m.noLocalEndpoints.WithLabelValues("internal", f.String()).Set(float64(internal))
	m.noLocalEndpoints.WithLabelValues("external", f.String()).Set(float64(external))
}

// Sizes notes how big the programmed State is.
func (m *Metrics) Sizes(f proxy.Family, services, endpoints, frontends int) {
	m.services.WithLabelValues(f.String()).Set(float64(services))
	m.endpoints.WithLabelValues(f.String()).Set(float64(endpoints))
	m.frontends.WithLabelValues(f.String()).Set(float64(frontends))
}

// HealthzAnswered counts an answer of /healthz.
func (m *Metrics) HealthzAnswered(code int) { m.healthz.WithLabelValues(strconv.Itoa(code)).Inc() }

// LivezAnswered counts an answer of /livez.
func (m *Metrics) LivezAnswered(code int) { m.livez.WithLabelValues(strconv.Itoa(code)).Inc() }

// ConntrackReconciled notes how long it took to find and delete stale flows, and how many were deleted.
func (m *Metrics) ConntrackReconciled(f proxy.Family, took time.Duration, deleted int) {
	m.conntrack.WithLabelValues(f.String()).Observe(took.Seconds())
	m.conntrackDeleted.WithLabelValues(f.String()).Add(float64(deleted))
}

// AffinityEntriesSwept counts session affinity entries that were removed because their endpoint is gone.
func (m *Metrics) AffinityEntriesSwept(f proxy.Family, n int) {
	m.affinitySwept.WithLabelValues(f.String()).Add(float64(n))
}

// ManifestProblemsFound notes how many problems the manifests have that were read last.
func (m *Metrics) ManifestProblemsFound(n int) { m.manifestProblems.WithLabelValues().Set(float64(n)) }

// ConfigFileUsed notes that the configuration in effect is that of the file.
func (m *Metrics) ConfigFileUsed() { m.configFileInUse.WithLabelValues().Set(1) }

// ConfigReloaded counts a change of the configuration file that took effect.
func (m *Metrics) ConfigReloaded() {
	m.configReloads.WithLabelValues().Inc()
	m.ConfigFileUsed()
}

// ConfigRefused counts a change of the configuration file that was refused: the configuration in effect is that of before.
func (m *Metrics) ConfigRefused() {
	m.configReloadErrors.WithLabelValues().Inc()
	m.configFileInUse.WithLabelValues().Set(0)
}

// seconds keeps fractions; whole nanoseconds since the epoch would not fit a float64.
func seconds(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }
