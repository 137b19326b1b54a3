package config

import (
	"strings"
	"time"

	"github.com/spf13/pflag"
	cliflag "k8s.io/component-base/cli/flag"
	logsapi "k8s.io/component-base/logs/api/v1"
	_ "k8s.io/component-base/logs/json/register" // makes "json" a log format
)

// class says when a flag counts.
type class uint8

const (
	classNoFile  class = iota // ignored if there is a configuration file
	classAlways               // also beside a configuration file
	classWindows              // accepted, without effect on Linux
	classOldLog               // accepted, without effect: logging flags that Kubernetes removed
)

// Flags are the proxy's command-line flags. Make them with NewFlags, give them arguments with Parse, and use Config.
type Flags struct {
	set   *pflag.FlagSet
	class map[string]class

	problems Problems // found while parsing

	// Where flags write to.
	conf external
	own  ownFlags

	configFile, writeConfigTo, master string
	cleanup, initOnly                 bool
	healthzPort, metricsPort          int32
	syncPeriod, minSyncPeriod         time.Duration // of modes iptables and nftables
	ipvsMinSyncPeriod                 time.Duration
	version                           versionFlag
	help                              bool
}

// NewFlags returns the flags with their defaults.
func NewFlags() *Flags {
	f := noFlags()
	f.syncPeriod, f.minSyncPeriod = f.conf.IPTables.SyncPeriod.Duration, f.conf.IPTables.MinSyncPeriod.Duration
	f.set.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	f.set.SortFlags = false
	f.define()
	return f
}

// noFlags returns what Flags are of a command that takes none.
func noFlags() *Flags {
	f := &Flags{
		set:               pflag.NewFlagSet("turnout", pflag.ContinueOnError),
		class:             map[string]class{},
		own:               defaultOwn,
		healthzPort:       healthzPort,
		metricsPort:       metricsPort,
		ipvsMinSyncPeriod: time.Second,
		version:           "false",
	}
	setDefaults(&f.conf)
	return f
}

// FlagSet returns the flags for a usage text. Arguments are to be parsed with Parse, not by this set.
func (f *Flags) FlagSet() *pflag.FlagSet { return f.set }

// Help tells that --help was among the arguments.
func (f *Flags) Help() bool { return f.help }

// Version returns "true" or "raw" if --version asked for it, else "".
func (f *Flags) Version() string {
	if f.version == "false" {
		return ""
	}
	return string(f.version)
}

// define adds all flags, group by group of the same class.
func (f *Flags) define() {
	f.group(classAlways, func(s *pflag.FlagSet) {
		s.StringVar(&f.configFile, "config", "", "File with a KubeProxyConfiguration. With it, only those flags count that say so.")
		s.StringVar(&f.writeConfigTo, "write-config-to", "", "Write the configuration, with all defaults filled in, to this file and exit.")
		s.BoolVar(&f.cleanup, "cleanup", false, "Remove the rules of Turnout and of kube-proxy, of every mode, and exit; as turnout cleanup.")
		s.BoolVar(&f.initOnly, "init-only", false, "Do what needs privileges at start and exit; afterwards CAP_NET_ADMIN is enough.")
		s.StringVar(&f.conf.HostnameOverride, "hostname-override", "", "Name of this node; the host name if empty.")
		s.StringVar(&f.master, "master", "", "URL of the API server, overrides that of the kubeconfig.")
		s.Var(&f.version, "version", "Print the version and exit; raw prints all that is known of it.")
		s.Lookup("version").NoOptDefVal = "true"
		s.BoolVarP(&f.help, "help", "h", false, "Print this help and exit.")
		logsapi.AddFlags(&f.conf.Logging, s)
		addOwnFlags(s, &f.own)
		s.VisitAll(sayItCounts)
	})
	f.group(classNoFile, f.defineClient)
	f.group(classNoFile, f.defineServers)
	f.group(classNoFile, f.defineRules)
	f.group(classNoFile, f.defineConntrack)
	f.group(classNoFile, func(s *pflag.FlagSet) {
		s.Int32Var(f.conf.IPTables.MasqueradeBit, "iptables-masquerade-bit", *f.conf.IPTables.MasqueradeBit, "Modes iptables and ipvs: bit of the packet mark, 0 to 31, that asks for masquerading.")
		s.BoolVar(f.conf.IPTables.LocalhostNodePorts, "iptables-localhost-nodeports", true, "Mode iptables: serve NodePorts on IPv4 loopback addresses.")
	})
	f.group(classNoFile, f.defineIPVS)
	f.group(classWindows, f.defineWindows)
	f.group(classOldLog, defineOldLog)
}

// sayItCounts adds to the usage text of a flag of classAlways that it counts beside a configuration file.
func sayItCounts(flag *pflag.Flag) {
	switch flag.Name {
	case "config", "version", "help":
	default:
		flag.Usage = strings.TrimSuffix(flag.Usage, ".") + ". Counts with --config."
	}
}

// group runs define and notes the class of each flag that it adds.
func (f *Flags) group(c class, define func(*pflag.FlagSet)) {
	define(f.set)
	f.set.VisitAll(func(flag *pflag.Flag) {
		if _, ok := f.class[flag.Name]; !ok {
			f.class[flag.Name] = c
		}
	})
}

func (f *Flags) defineClient(s *pflag.FlagSet) {
	c := &f.conf.ClientConnection
	s.StringVar(&c.Kubeconfig, "kubeconfig", "", "Kubeconfig file for the API server; in-cluster configuration if neither this nor --master is set.")
	s.StringVar(&c.ContentType, "kube-api-content-type", c.ContentType, "Media type of requests to the API server.")
	s.Float32Var(&c.QPS, "kube-api-qps", c.QPS, "Requests a second to the API server.")
	s.Int32Var(&c.Burst, "kube-api-burst", c.Burst, "Requests to the API server that may exceed --kube-api-qps at once.")
	s.DurationVar(&f.conf.ConfigSyncPeriod.Duration, "config-sync-period", f.conf.ConfigSyncPeriod.Duration, "Resync period of the informers.")
	s.Var(cliflag.NewMapStringBool(&f.conf.FeatureGates), "feature-gates", "Feature gates as name=true|false, separated by commas.\n"+gateUsage())
}

func (f *Flags) defineServers(s *pflag.FlagSet) {
	c := &f.conf
	healthz, metrics := serverAddresses(c.BindAddress)
	s.StringVar(&c.BindAddress, "bind-address", c.BindAddress, "Overrides what the node's primary address and family are. Nothing is bound to it.")
	s.StringVar(&c.HealthzBindAddress, "healthz-bind-address", withPort("", healthz, healthzPort), "IP:port of the health server; [::]:10256 if --bind-address is IPv6; empty for none.")
	s.StringVar(&c.MetricsBindAddress, "metrics-bind-address", withPort("", metrics, metricsPort), "IP:port of the metrics server; [::1]:10249 if --bind-address is IPv6.")
	s.Int32Var(&f.healthzPort, "healthz-port", f.healthzPort, "Deprecated: port of the health server if --healthz-bind-address has none; 0 for no health server.")
	s.Int32Var(&f.metricsPort, "metrics-port", f.metricsPort, "Deprecated: port of the metrics server if --metrics-bind-address has none.")
	s.BoolVar(&c.BindAddressHardFail, "bind-address-hard-fail", false, "Exit if a server's port cannot be bound, instead of trying again.")
	s.BoolVar(&c.EnableProfiling, "profiling", false, "Serve /debug/pprof and /debug/flags/v on the metrics server.")
	s.StringVar(&c.ShowHiddenMetricsForVersion, "show-hidden-metrics-for-version", "", "Show metrics that were hidden since the previous minor version, which is the only value allowed.")
}

func (f *Flags) defineRules(s *pflag.FlagSet) {
	c := &f.conf
	s.StringVar((*string)(&c.Mode), "proxy-mode", "", "How the kernel is programmed: nftables, which is the default, iptables, ipvs, or auto, which takes the first of them that the node can run.")
	s.BoolVar(&c.NFTables.MasqueradeAll, "masquerade-all", false, "Masquerade everything that is sent to ClusterIPs.")
	s.DurationVar(&f.syncPeriod, "iptables-sync-period", f.syncPeriod, "Modes iptables and nftables: longest time until a failed sync is tried again; /healthz fails after twice as long. Mode iptables also looks so often whether its rules are there.")
	s.DurationVar(&f.minSyncPeriod, "iptables-min-sync-period", f.minSyncPeriod, "Modes iptables and nftables: least time between syncs. If unset, mode nftables has --sync-quiet-period instead.")
	s.StringVar((*string)(&c.DetectLocalMode), "detect-local-mode", "", "How packets from local pods are recognised: ClusterCIDR (default), NodeCIDR, BridgeInterface or InterfaceNamePrefix.")
	s.StringVar(&c.DetectLocal.BridgeInterface, "pod-bridge-interface", "", "The bridge of --detect-local-mode=BridgeInterface.")
	s.StringVar(&c.DetectLocal.InterfaceNamePrefix, "pod-interface-name-prefix", "", "The prefix of --detect-local-mode=InterfaceNamePrefix.")
	s.StringVar(&c.ClusterCIDR, "cluster-cidr", "", "The pods' CIDR, or one of each family with a comma between, for --detect-local-mode=ClusterCIDR.")
	s.StringSliceVar(&c.NodePortAddresses, "nodeport-addresses", nil, "Where NodePorts are served: CIDRs and the words primary, localhost, all. If unset, primary in mode nftables, all in the others.")
	s.Int32Var(c.OOMScoreAdj, "oom-score-adj", *c.OOMScoreAdj, "oom_score_adj of this process, -1000 to 1000.")
}

func (f *Flags) defineConntrack(s *pflag.FlagSet) {
	c := &f.conf.Conntrack
	s.Int32Var(c.MaxPerCore, "conntrack-max-per-core", *c.MaxPerCore, "Flows to track for each CPU core; 0 leaves the kernel's limit and ignores --conntrack-min.")
	s.Int32Var(c.Min, "conntrack-min", *c.Min, "Flows to track at least.")
	s.DurationVar(&c.TCPEstablishedTimeout.Duration, "conntrack-tcp-timeout-established", c.TCPEstablishedTimeout.Duration, "Timeout of idle TCP flows; 0 leaves the kernel's.")
	s.DurationVar(&c.TCPCloseWaitTimeout.Duration, "conntrack-tcp-timeout-close-wait", c.TCPCloseWaitTimeout.Duration, "Timeout of TCP flows in CLOSE_WAIT; 0 leaves the kernel's.")
	s.BoolVar(&c.TCPBeLiberal, "conntrack-tcp-be-liberal", false, "Do not mark TCP packets outside the window as INVALID. False leaves the kernel's setting.")
	s.DurationVar(&c.UDPTimeout.Duration, "conntrack-udp-timeout", 0, "Timeout of unanswered UDP flows; 0 leaves the kernel's.")
	s.DurationVar(&c.UDPStreamTimeout.Duration, "conntrack-udp-timeout-stream", 0, "Timeout of answered UDP flows; 0 leaves the kernel's.")
}
