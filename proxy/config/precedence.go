package config

import (
	"net/netip"
	"slices"

	"github.com/spf13/pflag"
	logsapi "k8s.io/component-base/logs/api/v1"
)

// flagOf names the flag that sets a field, for those fields that have one. Several fields may share a flag.
var flagOf = map[string]string{
	"featureGates":                        "feature-gates",
	"clientConnection.kubeconfig":         "kubeconfig",
	"clientConnection.contentType":        "kube-api-content-type",
	"clientConnection.qps":                "kube-api-qps",
	"clientConnection.burst":              "kube-api-burst",
	"logging.format":                      "logging-format",
	"logging.flushFrequency":              "log-flush-frequency",
	"logging.verbosity":                   "v",
	"logging.vmodule":                     "vmodule",
	"logging.options.text.splitStream":    "log-text-split-stream",
	"logging.options.text.infoBufferSize": "log-text-info-buffer-size",
	"logging.options.json.splitStream":    "log-json-split-stream",
	"logging.options.json.infoBufferSize": "log-json-info-buffer-size",
	"hostnameOverride":                    "hostname-override",
	"bindAddress":                         "bind-address",
	"healthzBindAddress":                  "healthz-bind-address",
	"metricsBindAddress":                  "metrics-bind-address",
	"bindAddressHardFail":                 "bind-address-hard-fail",
	"enableProfiling":                     "profiling",
	"showHiddenMetricsForVersion":         "show-hidden-metrics-for-version",
	"mode":                                "proxy-mode",
	"iptables.masqueradeBit":              "iptables-masquerade-bit",
	"iptables.masqueradeAll":              "masquerade-all",
	"iptables.localhostNodePorts":         "iptables-localhost-nodeports",
	"iptables.syncPeriod":                 "iptables-sync-period",
	"iptables.minSyncPeriod":              "iptables-min-sync-period",
	"nftables.masqueradeAll":              "masquerade-all",
	"nftables.syncPeriod":                 "iptables-sync-period",
	"nftables.minSyncPeriod":              "iptables-min-sync-period",
	"ipvs.syncPeriod":                     "ipvs-sync-period",
	"ipvs.minSyncPeriod":                  "ipvs-min-sync-period",
	"ipvs.scheduler":                      "ipvs-scheduler",
	"ipvs.excludeCIDRs":                   "ipvs-exclude-cidrs",
	"ipvs.strictARP":                      "ipvs-strict-arp",
	"ipvs.tcpTimeout":                     "ipvs-tcp-timeout",
	"ipvs.tcpFinTimeout":                  "ipvs-tcpfin-timeout",
	"ipvs.udpTimeout":                     "ipvs-udp-timeout",
	"detectLocalMode":                     "detect-local-mode",
	"detectLocal.bridgeInterface":         "pod-bridge-interface",
	"detectLocal.interfaceNamePrefix":     "pod-interface-name-prefix",
	"clusterCIDR":                         "cluster-cidr",
	"nodePortAddresses":                   "nodeport-addresses",
	"oomScoreAdj":                         "oom-score-adj",
	"conntrack.maxPerCore":                "conntrack-max-per-core",
	"conntrack.min":                       "conntrack-min",
	"conntrack.tcpEstablishedTimeout":     "conntrack-tcp-timeout-established",
	"conntrack.tcpCloseWaitTimeout":       "conntrack-tcp-timeout-close-wait",
	"conntrack.tcpBeLiberal":              "conntrack-tcp-be-liberal",
	"conntrack.udpTimeout":                "conntrack-udp-timeout",
	"conntrack.udpStreamTimeout":          "conntrack-udp-timeout-stream",
	"configSyncPeriod":                    "config-sync-period",
}

// where names what a user has to change to change a field: the flag if the value came from the command line, or else the
// field's path.
func (f *Flags) where(field string) string {
	flag, ok := flagOf[field]
	if ok && (f.configFile == "" || f.class[flag] == classAlways && f.set.Changed(flag)) {
		return "--" + flag
	}
	return field
}

// fromFlags returns the configuration that the flags alone describe.
func (f *Flags) fromFlags(ps *Problems) *external {
	c := f.conf.DeepCopy()
	setDefaults(c)
	// A 0 of one of these is meant: a least time of 0 is none.
	if f.set.Changed("iptables-sync-period") {
		c.IPTables.SyncPeriod.Duration, c.NFTables.SyncPeriod.Duration = f.syncPeriod, f.syncPeriod
	}
	if f.set.Changed("iptables-min-sync-period") {
		c.IPTables.MinSyncPeriod.Duration, c.NFTables.MinSyncPeriod.Duration = f.minSyncPeriod, f.minSyncPeriod
	}
	if f.set.Changed("ipvs-min-sync-period") {
		c.IPVS.MinSyncPeriod.Duration = f.ipvsMinSyncPeriod
	}
	c.IPTables.MasqueradeAll = c.NFTables.MasqueradeAll
	if !f.set.Changed("root-hnsendpoint-name") {
		c.Winkernel.RootHnsEndpointName = ""
	}
	healthz, metrics := serverAddresses(c.BindAddress)
	c.HealthzBindAddress = f.serverAddress("healthz", c.HealthzBindAddress, healthz, f.healthzPort, ps)
	c.MetricsBindAddress = f.serverAddress("metrics", c.MetricsBindAddress, metrics, f.metricsPort, ps)
	return c
}

// serverAddress combines a server's address flag with its deprecated port flag.
func (f *Flags) serverAddress(server, address, def string, port int32, ps *Problems) string {
	if !f.set.Changed(server + "-bind-address") {
		address = def
	}
	switch a, err := netip.ParseAddr(address); {
	case err != nil:
		return address // has a port already, or is reported by the validation
	case port == 0 && server == "healthz":
		return ""
	case port < 1 || port > 65535:
		ps.add("--"+server+"-port", "%d is not a port; give 1 to 65535", port)
		return address
	default:
		return netip.AddrPortFrom(a, uint16(port)).String()
	}
}

// healthzOff tells that the flags ask for no health server.
func (f *Flags) healthzOff() bool {
	if f.configFile != "" {
		return false
	}
	return f.set.Changed("healthz-bind-address") && f.conf.HealthzBindAddress == "" || f.set.Changed("healthz-port") && f.healthzPort == 0
}

// override copies into the file's configuration what flags say beside it.
func (f *Flags) override(c *external) {
	if f.conf.HostnameOverride != "" { // "" asks for nothing
		c.HostnameOverride = f.conf.HostnameOverride
	}
	logging := map[string]func(to, from *logsapi.LoggingConfiguration){
		"logging-format":      func(to, from *logsapi.LoggingConfiguration) { to.Format = from.Format },
		"log-flush-frequency": func(to, from *logsapi.LoggingConfiguration) { to.FlushFrequency = from.FlushFrequency },
		"v":                   func(to, from *logsapi.LoggingConfiguration) { to.Verbosity = from.Verbosity },
		// The first of several patterns that fit counts.
		"vmodule": func(to, from *logsapi.LoggingConfiguration) { to.VModule = slices.Concat(from.VModule, to.VModule) },
		"log-text-split-stream": func(to, from *logsapi.LoggingConfiguration) {
			to.Options.Text.SplitStream = from.Options.Text.SplitStream
		},
		"log-text-info-buffer-size": func(to, from *logsapi.LoggingConfiguration) {
			to.Options.Text.InfoBufferSize = from.Options.Text.InfoBufferSize
		},
		"log-json-split-stream": func(to, from *logsapi.LoggingConfiguration) {
			to.Options.JSON.SplitStream = from.Options.JSON.SplitStream
		},
		"log-json-info-buffer-size": func(to, from *logsapi.LoggingConfiguration) {
			to.Options.JSON.InfoBufferSize = from.Options.JSON.InfoBufferSize
		},
	}
	for name, copyTo := range logging {
		if f.set.Changed(name) {
			copyTo(&c.Logging, &f.conf.Logging)
		}
	}
}

// flagWarnings names each flag that was set and has no effect in a mode.
func (f *Flags) flagWarnings(m Mode) (ws Warnings) {
	f.set.Visit(func(flag *pflag.Flag) {
		where := "--" + flag.Name
		switch class := f.class[flag.Name]; {
		case class == classWindows:
			ws.add(where, "%s is ignored: it is for Windows only", where)
		case class == classOldLog:
			ws.add(where, "%s is ignored: Kubernetes components lost it in 1.26; use -v, --vmodule and --logging-format", where)
		case f.configFile != "" && class != classAlways:
			ws.add(where, "%s is ignored because --config is given; set it in the configuration file", where)
		case !flagUsedIn(flag.Name, m):
			ws.add(where, "%s has no effect in mode %s", where, m)
		case flag.Name == "healthz-port" || flag.Name == "metrics-port":
			ws.add(where, "%s is deprecated; put the port into --%s-bind-address", where, flag.Name[:7])
		}
	})
	return ws
}

// flagUsedIn tells whether a mode uses one of the fields that a flag sets.
func flagUsedIn(flag string, m Mode) bool {
	sets := false
	for field, name := range flagOf {
		if name == flag && usedIn(field, m) {
			return true
		}
		sets = sets || name == flag
	}
	return !sets
}
