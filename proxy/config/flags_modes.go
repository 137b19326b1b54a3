package config

import (
	"strings"

	"github.com/spf13/pflag"
)

func (f *Flags) defineIPVS(s *pflag.FlagSet) {
	c := &f.conf.IPVS
	s.DurationVar(&c.SyncPeriod.Duration, "ipvs-sync-period", c.SyncPeriod.Duration, "Mode ipvs: longest time until a failed sync is tried again; /healthz fails after twice as long. It also looks so often whether its rules are there.")
	// The flag's default differs from the field's, as in kube-proxy; it goes to the field only if the flag is set.
	s.DurationVar(&f.ipvsMinSyncPeriod, "ipvs-min-sync-period", f.ipvsMinSyncPeriod, "Mode ipvs: least time between syncs.")
	s.StringVar(&c.Scheduler, "ipvs-scheduler", "", "Mode ipvs: the kernel's scheduler; rr if empty.")
	s.StringSliceVar(&c.ExcludeCIDRs, "ipvs-exclude-cidrs", nil, "Mode ipvs: CIDRs whose virtual servers are left alone.")
	s.BoolVar(&c.StrictARP, "ipvs-strict-arp", false, "Mode ipvs: have the node not answer ARP requests for addresses of Services (arp_ignore and arp_announce).")
	s.DurationVar(&c.TCPTimeout.Duration, "ipvs-tcp-timeout", 0, "Mode ipvs: timeout of idle TCP connections; 0 leaves the kernel's.")
	s.DurationVar(&c.TCPFinTimeout.Duration, "ipvs-tcpfin-timeout", 0, "Mode ipvs: timeout of TCP connections after a FIN; 0 leaves the kernel's.")
	s.DurationVar(&c.UDPTimeout.Duration, "ipvs-udp-timeout", 0, "Mode ipvs: timeout of UDP flows; 0 leaves the kernel's.")
}

// The flags that follow have no effect. They are accepted so that an existing command line starts.

func (f *Flags) defineWindows(s *pflag.FlagSet) {
	c := &f.conf.Winkernel
	s.BoolVar(&f.conf.WindowsRunAsService, "windows-service", false, "Windows only.")
	s.StringVar(&c.SourceVip, "source-vip", "", "Windows only.")
	s.StringVar(&c.NetworkName, "network-name", "", "Windows only.")
	s.BoolVar(&c.EnableDSR, "enable-dsr", false, "Windows only.")
	s.StringVar(&c.RootHnsEndpointName, "root-hnsendpoint-name", "cbr0", "Windows only.")
	s.BoolVar(&c.ForwardHealthCheckVip, "forward-healthcheck-vip", false, "Windows only.")
	// The flag's default is not the field's: the file knows no default for it.
	c.RootHnsEndpointName = ""
}

// defineOldLog adds the klog flags that Kubernetes components had until 1.25; scripts still pass them.
func defineOldLog(s *pflag.FlagSet) {
	for name := range strings.FieldsSeq("logtostderr alsologtostderr one-output skip-headers skip-log-headers add-dir-header") {
		s.Bool(name, false, "No effect.")
		s.Lookup(name).Hidden = true
	}
	for name := range strings.FieldsSeq("log-dir log-file log-file-max-size stderrthreshold log-backtrace-at") {
		s.String(name, "", "No effect.")
		s.Lookup(name).Hidden = true
	}
}
