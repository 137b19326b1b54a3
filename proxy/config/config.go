package config

import (
	"net/netip"
	"time"

	"k8s.io/component-base/featuregate"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/kube-proxy/config/v1alpha1"
)

// Config is the complete, validated configuration. It is not modified after it was built.
type Config struct {
	// Mode is the one that everything else is meant for. Auto has no settings of its own: take In of what it is resolved to.
	Mode Mode
	// Asked is the mode that the user chose, or the default. In leaves it as it is.
	Asked Mode
	// ModeSet tells that the mode was chosen by the user rather than by default.
	ModeSet bool

	// HostnameOverride is the node's name, lower case; "" means the operating system's host name.
	HostnameOverride string
	// Client says how to reach the API server; not used if Manifests is set.
	Client Client
	// Manifests is the folder whose YAML files replace the API server; "" means that there is an API server.
	Manifests string

	// BindAddress overrides the node's primary address and family if it is not unspecified. No socket is bound to it.
	BindAddress netip.Addr
	// HealthzBindAddress is where the health server listens; invalid means that there is none.
	HealthzBindAddress netip.AddrPort
	// MetricsBindAddress is where the metrics server listens; always valid.
	MetricsBindAddress netip.AddrPort
	// BindAddressHardFail ends the process if one of the two cannot be bound; otherwise binding is retried.
	BindAddressHardFail bool
	// Profiling serves /debug/pprof and /debug/flags/v on the metrics server.
	Profiling bool
	// ShowHiddenMetricsForVersion is "" or the previous minor version, such as "1.36".
	ShowHiddenMetricsForVersion string

	Sync Sync
	// MasqueradeAll replaces the source of everything sent to ClusterIPs.
	MasqueradeAll bool
	// MasqueradeBit is the number, 0 to 31, of the bit of the packet mark that asks for masquerading.
	MasqueradeBit uint8
	// ProtectTable makes the tables belong to this process, so that nobody else can change them.
	ProtectTable bool

	DetectLocal       DetectLocal
	ClusterCIDRs      []netip.Prefix // at most one for each family; masked
	NodePortAddresses NodePortAddresses
	// LocalhostNodePorts tells that NodePorts are served on IPv4 loopback addresses, too, which only mode iptables can.
	LocalhostNodePorts bool
	// IPVS has the settings of mode ipvs.
	IPVS VirtualServers

	// OOMScoreAdj is what to write to /proc/self/oom_score_adj, -1000 to 1000.
	OOMScoreAdj int
	Conntrack   Conntrack

	Features Features
	// Gates has every known feature gate with its value; for logging and for the metric kubernetes_feature_enabled.
	Gates featuregate.MutableVersionedFeatureGate
	// Logging was validated, and is still to be applied with logsapi.ValidateAndApply and Gates.
	Logging *logsapi.LoggingConfiguration

	// ConfigFile is the path of the configuration file, "" if there is none. Watch tells of changes.
	ConfigFile string
	contents   []byte // of ConfigFile
	// CleanupAndExit removes everything that a proxy of any mode left in the kernel.
	CleanupAndExit bool
	// InitOnly does what needs privileges at start, then ends.
	InitOnly bool
	// WriteConfigTo is the file to write YAML to; "" means none. With it nothing else is done.
	WriteConfigTo string

	// External is the effective configuration as the API type, defaults filled in, with apiVersion and kind; for /configz.
	External *v1alpha1.KubeProxyConfiguration
	// Flags has the value of each command line flag by name; for /flagz and the log. None is secret.
	Flags map[string]string
	// Warnings are to be logged at start: flags and fields that were ignored or have no effect, and settings that are
	// valid but likely to be a mistake.
	Warnings Warnings

	flags *Flags // that the Config was made of
}

// Client says how to reach the API server. If both Kubeconfig and Master are "", the in-cluster configuration is used.
type Client struct {
	Kubeconfig         string // path of a kubeconfig file
	Master             string // URL of the API server; overrides the kubeconfig's
	AcceptContentTypes string // Accept header; "" means the client's default
	ContentType        string // media type of requests
	QPS                float32
	Burst              int
}

// Sync says when changes are brought to the kernel.
type Sync struct {
	// Period is the delay before a failed sync is retried, and half the age at which /healthz gives up. At least 1ns.
	Period time.Duration
	// MinPeriod is the least time from one sync to the next, if the user asked for one. 0 means that only QuietPeriod and
	// MaxDelay hold changes back; at most Period.
	MinPeriod time.Duration
	// QuietPeriod is how long no further change must come before a sync starts; MaxDelay is the longest wait for that.
	QuietPeriod, MaxDelay time.Duration
	// Resync is the informers' resync period.
	Resync time.Duration
}

// VirtualServers are the settings of mode ipvs.
type VirtualServers struct {
	Scheduler string // the kernel's name for it; "" for rr
	StrictARP bool
	// Exclude are prefixes whose virtual servers are left alone.
	Exclude []netip.Prefix
	// Timeouts of idle connections; 0 leaves the kernel's.
	TCPTimeout, TCPFinTimeout, UDPTimeout time.Duration
}

// LocalMode is how packets from pods of this node are recognised, in the words of kube-proxy's field detectLocalMode.
type LocalMode string

// The ways to recognise packets from local pods.
const (
	DetectClusterCIDR         LocalMode = "ClusterCIDR"
	DetectNodeCIDR            LocalMode = "NodeCIDR"
	DetectBridgeInterface     LocalMode = "BridgeInterface"
	DetectInterfaceNamePrefix LocalMode = "InterfaceNamePrefix"
)

// DetectLocal says how packets from pods of this node are recognised: by Config.ClusterCIDRs, by the Node's podCIDRs, or by
// the interface they come in on. Only the field that Mode asks for has a meaning.
type DetectLocal struct {
	Mode                LocalMode
	BridgeInterface     string
	InterfaceNamePrefix string
}

// NodePortAddresses says on which of the node's addresses NodePorts are served: those that any of its fields names. A family
// that no field says anything about is served on all addresses, as kube-proxy does.
type NodePortAddresses struct {
	// Set tells that the user gave a list. If not, Primary is set in mode nftables, and All in the others.
	Set bool
	// Primary is the node's primary address of each family, Localhost the loopback addresses, All every address.
	Primary, Localhost, All bool
	Prefixes                []netip.Prefix // masked, in the user's order
}

// Conntrack holds the settings of connection tracking; a zero leaves the kernel's value alone.
type Conntrack struct {
	MaxPerCore, Min       int
	TCPEstablishedTimeout time.Duration
	TCPCloseWaitTimeout   time.Duration
	UDPTimeout            time.Duration
	UDPStreamTimeout      time.Duration
	// TCPBeLiberal sets nf_conntrack_tcp_be_liberal; false leaves it alone.
	TCPBeLiberal bool
}

// Features are the feature gates that change what the proxy does.
type Features struct {
	ExternalIPs bool // AllowServiceExternalIPs: spec.externalIPs of Services are served
	Flagz       bool // ComponentFlagz: /flagz is served
	Statusz     bool // ComponentStatusz: /statusz is served
}
