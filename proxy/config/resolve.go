package config

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/spf13/pflag"
	"k8s.io/kube-proxy/config/v1alpha1"
	sigsyaml "sigs.k8s.io/yaml"
)

// Config builds the configuration from the parsed flags, and from the file of --config, which it gets from read. The error
// is a Problems with everything that is wrong.
func (f *Flags) Config(read func(path string) ([]byte, error)) (*Config, error) {
	ps := append(Problems(nil), f.problems...)
	conf, contents, warnings := f.sources(read, &ps)
	minSyncPeriod := conf.NFTables.MinSyncPeriod.Duration
	modeSet := conf.Mode != ""
	setDefaults(conf)
	setDependentDefaults(conf)
	if !modeSet && f.configFile != "" {
		warnings = append(warnings, unusedIPTablesSection(conf)...)
	}

	v := &validator{conf: conf, where: f.where, problems: &ps}
	c := f.build(v)
	c.ModeSet = modeSet
	c.contents = contents
	c.Flags = map[string]string{}
	f.set.VisitAll(func(flag *pflag.Flag) { c.Flags[flag.Name] = flag.Value.String() })
	c.Sync.MinPeriod = minSyncPeriod
	f.ownSettings(c, &ps)
	if len(ps) > 0 {
		return nil, ps
	}
	c.Warnings = slices.Concat(warnings, c.Warnings, c.addressWarnings())
	return c, nil
}

// sources returns the configuration of the file and the file's contents, or else that of the flags; without dependent defaults.
func (f *Flags) sources(read func(string) ([]byte, error), ps *Problems) (*external, []byte, []string) {
	warnings := f.flagWarnings()
	if f.configFile == "" {
		return f.fromFlags(ps), nil, warnings
	}
	data, err := read(f.configFile)
	if err != nil {
		ps.add("--config", "%v; give the path of a readable file", err)
		return &external{}, nil, warnings
	}
	conf, fileWarnings, problems := decodeFile(data)
	*ps = append(*ps, problems...)
	f.override(conf)
	return conf, data, slices.Concat(warnings, fileWarnings, unusedFields(conf))
}

// build validates the configuration and brings it into typed form.
func (f *Flags) build(v *validator) *Config {
	conf := v.conf
	c := &Config{External: conf, Mode: NFTables}
	c.Gates, c.Warnings = setGates(conf.FeatureGates, v.where("featureGates"), v.problems)
	v.client()
	if c.Gates != nil {
		c.Features = features(c.Gates)
		v.logging(c.Gates)
	}
	c.HostnameOverride = v.hostname()
	conf.HostnameOverride = c.HostnameOverride
	c.BindAddress = v.bindAddress()
	if f.healthzOff() {
		conf.HealthzBindAddress = ""
	} else {
		c.HealthzBindAddress = v.serverAddress("healthzBindAddress", conf.HealthzBindAddress)
	}
	c.MetricsBindAddress = v.serverAddress("metricsBindAddress", conf.MetricsBindAddress)
	v.hiddenMetrics()
	v.mode(f.cleanup)
	v.numbersAndIntervals()
	v.minSyncPeriod()
	v.excludeCIDRs()
	v.detectLocal()
	c.ClusterCIDRs = v.clusterCIDRs()
	c.NodePortAddresses = v.nodePortAddresses()
	c.fill(conf)
	return c
}

// fill copies what needs no parsing.
func (c *Config) fill(conf *external) {
	c.BindAddressHardFail = conf.BindAddressHardFail
	c.Profiling = conf.EnableProfiling
	c.ShowHiddenMetricsForVersion = conf.ShowHiddenMetricsForVersion
	c.Client = Client{
		Kubeconfig:         conf.ClientConnection.Kubeconfig,
		AcceptContentTypes: conf.ClientConnection.AcceptContentTypes,
		ContentType:        conf.ClientConnection.ContentType,
		QPS:                conf.ClientConnection.QPS,
		Burst:              int(conf.ClientConnection.Burst),
	}
	c.Sync.Period = conf.NFTables.SyncPeriod.Duration
	c.Sync.Resync = conf.ConfigSyncPeriod.Duration
	c.MasqueradeAll = conf.NFTables.MasqueradeAll
	c.MasqueradeBit = uint8(*conf.NFTables.MasqueradeBit)
	c.DetectLocal = DetectLocal{
		Mode:                LocalMode(conf.DetectLocalMode),
		BridgeInterface:     conf.DetectLocal.BridgeInterface,
		InterfaceNamePrefix: conf.DetectLocal.InterfaceNamePrefix,
	}
	c.OOMScoreAdj = int(*conf.OOMScoreAdj)
	c.Conntrack = Conntrack{
		MaxPerCore:            int(*conf.Conntrack.MaxPerCore),
		Min:                   int(*conf.Conntrack.Min),
		TCPEstablishedTimeout: conf.Conntrack.TCPEstablishedTimeout.Duration,
		TCPCloseWaitTimeout:   conf.Conntrack.TCPCloseWaitTimeout.Duration,
		UDPTimeout:            conf.Conntrack.UDPTimeout.Duration,
		UDPStreamTimeout:      conf.Conntrack.UDPStreamTimeout.Duration,
		TCPBeLiberal:          conf.Conntrack.TCPBeLiberal,
	}
	c.Logging = conf.Logging.DeepCopy()
}

// ownSettings adds what the file has no fields for.
func (f *Flags) ownSettings(c *Config, ps *Problems) {
	f.own.validate(c.Sync.Period, ps)
	c.Sync.QuietPeriod, c.Sync.MaxDelay = f.own.quietPeriod, f.own.maxDelay
	c.ProtectTable = f.own.protectTable
	c.ConfigFile, c.WriteConfigTo = f.configFile, f.writeConfigTo
	c.CleanupAndExit, c.InitOnly = f.cleanup, f.initOnly
	c.Client.Master = f.master
	c.Manifests = f.own.manifests
	if c.Manifests == "" {
		return
	}
	for _, name := range []string{"kubeconfig", "master"} {
		if f.set.Changed(name) {
			ps.add("--"+name, "excludes --manifests (%s); give only one of them", filepath.Clean(c.Manifests))
		}
	}
	if c.Client.Kubeconfig != "" && !f.set.Changed("kubeconfig") {
		c.Warnings = append(c.Warnings, "clientConnection.kubeconfig is ignored because --manifests is given")
	}
}

// unusedFields warns about fields of the file that never have an effect here.
func unusedFields(conf *external) []string {
	var warnings []string
	if conf.PortRange != "" {
		warnings = append(warnings, "portRange is ignored: it belonged to a mode that kube-proxy lost in 1.26")
	}
	if conf.Winkernel != (v1alpha1.KubeProxyWinkernelConfiguration{}) || conf.WindowsRunAsService {
		warnings = append(warnings, "winkernel and windowsRunAsService are ignored: they are for Windows only")
	}
	return warnings
}

// unusedIPTablesSection warns about settings of the iptables section that kube-proxy would use if mode is unset.
func unusedIPTablesSection(conf *external) []string {
	var warnings []string
	warn := func(field string) {
		warnings = append(warnings, fmt.Sprintf("iptables.%s has no effect: mode is not set, which means nftables; set nftables.%s", field, field))
	}
	if conf.IPTables.MasqueradeAll && !conf.NFTables.MasqueradeAll {
		warn("masqueradeAll")
	}
	if bit := *conf.IPTables.MasqueradeBit; bit != defaultMasqueradeBit && bit != *conf.NFTables.MasqueradeBit {
		warn("masqueradeBit")
	}
	return warnings
}

// YAML returns the effective configuration as a KubeProxyConfiguration file. Read back, it gives the same Config.
func (c *Config) YAML() ([]byte, error) {
	raw, err := sigsyaml.Marshal(c.External)
	if err != nil {
		return nil, fmt.Errorf("marshal configuration: %w", err)
	}
	return raw, nil
}
