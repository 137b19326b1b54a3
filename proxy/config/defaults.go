package config

import (
	"math"
	"net/netip"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/kube-proxy/config/v1alpha1"
)

// external is the API type that flags and the file are both brought into.
type external = v1alpha1.KubeProxyConfiguration

const (
	// The ports that load balancers, kubeadm and monitoring expect.
	healthzPort = 10256
	metricsPort = 10249

	// The API server answers protobuf with less work than JSON.
	defaultContentType = "application/vnd.kubernetes.protobuf"
	// After the first lists a proxy asks the API server for very little.
	defaultQPS   = 5
	defaultBurst = 10

	// The health server is for load balancers and so on every address; metrics are for whoever is on the node.
	defaultBindAddress = "0.0.0.0"
	healthzAddress4    = "0.0.0.0"
	healthzAddress6    = "::"
	metricsAddress4    = "127.0.0.1"
	metricsAddress6    = "::1"

	// 0x4000 is what other programs expect kube-proxy to use; a packet mark has 32 bits.
	defaultMasqueradeBit = 14

	// The least that is derived from the number of CPUs.
	conntrackMin = 131072

	// What an unset mode means. kube-proxy 1.37 takes iptables here, and nftables from 1.40 on.
	defaultMode = NFTables
	// What an unset detectLocalMode means.
	defaultDetectLocal = v1alpha1.LocalMode(DetectClusterCIDR)
)

// number is a field that is nil when unset: a 0 is a value.
type number struct {
	field         string
	at            func(*external) **int32
	def, min, max int32
}

// numbers has the default and the limits of each such field.
var numbers = []number{
	// A proxy that is killed for lack of memory takes all services of the node with it; -1000 would exempt it altogether.
	{"oomScoreAdj", func(c *external) **int32 { return &c.OOMScoreAdj }, -999, -1000, 1000},
	{"iptables.masqueradeBit", func(c *external) **int32 { return &c.IPTables.MasqueradeBit }, defaultMasqueradeBit, 0, 31},
	{"nftables.masqueradeBit", func(c *external) **int32 { return &c.NFTables.MasqueradeBit }, defaultMasqueradeBit, 0, 31},
	// 32768 flows for each core, but a small machine may carry the traffic of a large one.
	{"conntrack.maxPerCore", func(c *external) **int32 { return &c.Conntrack.MaxPerCore }, 32768, 0, math.MaxInt32},
	{"conntrack.min", func(c *external) **int32 { return &c.Conntrack.Min }, conntrackMin, 0, math.MaxInt32},
}

// interval is a duration that is unset when it is 0.
type interval struct {
	field string
	at    func(*external) *metav1.Duration
	def   time.Duration
	// positive excludes 0, which then can only stand where no default replaces it; otherwise only negative values are.
	positive bool
}

// intervals has the default of each such field.
var intervals = []interval{
	// Informers resend what they know as often; nothing is lost without, so it is rare.
	{"configSyncPeriod", func(c *external) *metav1.Duration { return &c.ConfigSyncPeriod }, 15 * time.Minute, true},
	// How soon a failed sync is retried.
	{"iptables.syncPeriod", func(c *external) *metav1.Duration { return &c.IPTables.SyncPeriod }, 30 * time.Second, true},
	{"ipvs.syncPeriod", func(c *external) *metav1.Duration { return &c.IPVS.SyncPeriod }, 30 * time.Second, true},
	{"nftables.syncPeriod", func(c *external) *metav1.Duration { return &c.NFTables.SyncPeriod }, 30 * time.Second, true},
	// A sync in mode iptables costs seconds, so it is held back; one in mode ipvs is not.
	{"iptables.minSyncPeriod", func(c *external) *metav1.Duration { return &c.IPTables.MinSyncPeriod }, time.Second, false},
	{"ipvs.minSyncPeriod", func(c *external) *metav1.Duration { return &c.IPVS.MinSyncPeriod }, 0, false},
	// kube-proxy has 1s. A sync costs milliseconds here, so unset means the much shorter window of --sync-quiet-period
	// and --sync-max-delay, and the field keeps 0 to show that.
	{"nftables.minSyncPeriod", func(c *external) *metav1.Duration { return &c.NFTables.MinSyncPeriod }, 0, false},
	// 0 leaves the kernel's value.
	{"ipvs.tcpTimeout", func(c *external) *metav1.Duration { return &c.IPVS.TCPTimeout }, 0, false},
	{"ipvs.tcpFinTimeout", func(c *external) *metav1.Duration { return &c.IPVS.TCPFinTimeout }, 0, false},
	{"ipvs.udpTimeout", func(c *external) *metav1.Duration { return &c.IPVS.UDPTimeout }, 0, false},
	{"conntrack.udpTimeout", func(c *external) *metav1.Duration { return &c.Conntrack.UDPTimeout }, 0, false},
	{"conntrack.udpStreamTimeout", func(c *external) *metav1.Duration { return &c.Conntrack.UDPStreamTimeout }, 0, false},
}

// timeout is a duration that is nil when unset: 0 leaves the kernel's value.
type timeout struct {
	field string
	at    func(*external) **metav1.Duration
	def   time.Duration
}

// timeouts has the default of each such field.
var timeouts = []timeout{
	// The kernel's default is five days, for which a dead connection would keep its entry.
	{"conntrack.tcpEstablishedTimeout", func(c *external) **metav1.Duration { return &c.Conntrack.TCPEstablishedTimeout }, 24 * time.Hour},
	// The kernel's default is one minute, less than applications may leave a half-closed connection.
	{"conntrack.tcpCloseWaitTimeout", func(c *external) **metav1.Duration { return &c.Conntrack.TCPCloseWaitTimeout }, time.Hour},
}

// setDefaults fills in every field that is unset, except mode, detectLocalMode and the two bind addresses, whose meaning
// depends on other fields. It is idempotent.
func setDefaults(c *external) {
	c.APIVersion, c.Kind = v1alpha1.SchemeGroupVersion.String(), kind
	for _, n := range numbers {
		if p := n.at(c); *p == nil {
			*p = new(n.def)
		}
	}
	for _, i := range intervals {
		if d := i.at(c); d.Duration == 0 {
			d.Duration = i.def
		}
	}
	for _, t := range timeouts {
		if p := t.at(c); *p == nil {
			*p = &metav1.Duration{Duration: t.def}
		}
	}
	orDefault(&c.BindAddress, defaultBindAddress)
	orDefault(&c.ClientConnection.ContentType, defaultContentType)
	orDefault(&c.ClientConnection.QPS, defaultQPS)
	orDefault(&c.ClientConnection.Burst, defaultBurst)
	if c.IPTables.LocalhostNodePorts == nil {
		c.IPTables.LocalhostNodePorts = new(true)
	}
	if c.FeatureGates == nil {
		c.FeatureGates = map[string]bool{}
	}
	logsapi.SetRecommendedLoggingConfiguration(&c.Logging)
}

// setDependentDefaults fills in the fields whose default depends on others. It is idempotent.
func setDependentDefaults(c *external) {
	orDefault(&c.Mode, v1alpha1.ProxyMode(defaultMode))
	orDefault(&c.DetectLocalMode, defaultDetectLocal)
	healthz, metrics := serverAddresses(c.BindAddress)
	c.HealthzBindAddress = withPort(c.HealthzBindAddress, healthz, healthzPort)
	c.MetricsBindAddress = withPort(c.MetricsBindAddress, metrics, metricsPort)
}

// serverAddresses returns the default addresses of the health and metrics servers: those of bindAddress's family.
func serverAddresses(bindAddress string) (healthz, metrics string) {
	if a, err := netip.ParseAddr(bindAddress); err == nil && !a.Unmap().Is4() {
		return healthzAddress6, metricsAddress6
	}
	return healthzAddress4, metricsAddress4
}

// withPort appends the port to an address that has none. An empty address becomes def; what is no address is kept.
func withPort(address, def string, port uint16) string {
	orDefault(&address, def)
	if a, err := netip.ParseAddr(address); err == nil {
		return netip.AddrPortFrom(a, port).String()
	}
	return address
}

// orDefault replaces a zero value.
func orDefault[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}
