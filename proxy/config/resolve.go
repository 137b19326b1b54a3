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
	return f.configIn("", read)
}

// configIn is Config for a mode instead of the one that the sources say, if it is not "".
func (f *Flags) configIn(m Mode, read func(path string) ([]byte, error)) (*Config, error) {
	r := f.resolve(read, m)
	if len(r.problems) > 0 {
		return nil, r.problems
	}
	return r.config, nil
}

// In returns the Config that the same command line and file lead to in a mode, which does not change what was Asked. The error is a Problems:
// what is wrong with fields that only this mode uses.
func (c *Config) In(m Mode) (*Config, error) {
	return c.flags.configIn(m, func(string) ([]byte, error) { return c.contents, nil })
}

// resolution is all that is found out about a configuration. What there are problems with is not valid in config.
type resolution struct {
	config   *Config
	said     Mode // by the sources; "" if they say none
	problems Problems
	notes    Warnings // about what has no effect, and harms nobody
}

// resolve brings flags and file into a Config, for a mode instead of the one that they say if it is not "".
func (f *Flags) resolve(read func(path string) ([]byte, error), instead Mode) resolution {
	r := resolution{problems: slices.Clone(f.problems)}
	conf, contents, fileWarnings := f.sources(read, &r.problems)
	r.said = Mode(conf.Mode)
	asked, modeSet := r.said, r.said != ""
	orDefault(&asked, defaultMode)
	if instead != "" {
		conf.Mode = v1alpha1.ProxyMode(instead)
	}
	setDependentDefaults(conf)

	v := &validator{conf: conf, mode: Mode(conf.Mode), where: f.where, problems: &r.problems}
	c := f.build(v)
	c.Asked, c.ModeSet, c.contents, c.flags = asked, modeSet, contents, f
	c.Flags = map[string]string{}
	f.set.VisitAll(func(flag *pflag.Flag) { c.Flags[flag.Name] = flag.Value.String() })
	f.ownSettings(c, &r.problems)
	var unusedWarnings Warnings
	if f.configFile != "" {
		unusedWarnings, r.notes = unused(conf, c.Mode, modeSet || instead != "", v.latent)
	}
	c.Warnings = slices.Concat(f.flagWarnings(c.Mode), fileWarnings, unusedWarnings, c.Warnings, c.addressWarnings())
	r.config = c
	return r
}

// sources returns the configuration of the file and the file's contents, or else that of the flags; without dependent defaults.
func (f *Flags) sources(read func(string) ([]byte, error), ps *Problems) (*external, []byte, Warnings) {
	if f.configFile == "" {
		return f.fromFlags(ps), nil, nil
	}
	data, err := read(f.configFile)
	if err != nil {
		ps.add("--config", "%v; give the path of a readable file", err)
		var conf external
		setDefaults(&conf)
		return &conf, nil, nil
	}
	conf, ws, problems := decodeFile(data)
	for _, p := range problems {
		orDefault(&p.Where, "--config")
		*ps = append(*ps, p)
	}
	f.override(conf)
	setDefaults(conf)
	return conf, data, ws
}

// build validates the configuration and brings it into typed form.
func (f *Flags) build(v *validator) *Config {
	conf := v.conf
	c := &Config{External: conf, Mode: v.mode}
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
	v.modeExists()
	v.numbersAndIntervals()
	v.minSyncPeriod()
	c.IPVS.Exclude = v.excludeCIDRs()
	v.detectLocal()
	c.ClusterCIDRs = v.clusterCIDRs()
	c.NodePortAddresses = v.nodePortAddresses()
	c.LocalhostNodePorts = c.Mode == IPTables && *conf.IPTables.LocalhostNodePorts && servesLoopback(conf)
	c.fill(conf)
	return c
}

// fillSection copies what each mode has in a section of its own.
func (c *Config) fillSection(conf *external) {
	switch c.Mode {
	case IPTables, IPVS:
		c.MasqueradeAll, c.MasqueradeBit = conf.IPTables.MasqueradeAll, uint8(*conf.IPTables.MasqueradeBit)
	default:
		c.MasqueradeAll, c.MasqueradeBit = conf.NFTables.MasqueradeAll, uint8(*conf.NFTables.MasqueradeBit)
	}
	switch c.Mode {
	case IPTables:
		c.Sync.Period, c.Sync.MinPeriod = conf.IPTables.SyncPeriod.Duration, conf.IPTables.MinSyncPeriod.Duration
	case IPVS:
		c.Sync.Period, c.Sync.MinPeriod = conf.IPVS.SyncPeriod.Duration, conf.IPVS.MinSyncPeriod.Duration
	default:
		c.Sync.Period, c.Sync.MinPeriod = conf.NFTables.SyncPeriod.Duration, conf.NFTables.MinSyncPeriod.Duration
	}
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
	c.Sync.Resync = conf.ConfigSyncPeriod.Duration
	c.fillSection(conf)
	c.DetectLocal = DetectLocal{
		Mode:                LocalMode(conf.DetectLocalMode),
		BridgeInterface:     conf.DetectLocal.BridgeInterface,
		InterfaceNamePrefix: conf.DetectLocal.InterfaceNamePrefix,
	}
	c.IPVS.Scheduler, c.IPVS.StrictARP = conf.IPVS.Scheduler, conf.IPVS.StrictARP
	c.IPVS.TCPTimeout, c.IPVS.TCPFinTimeout, c.IPVS.UDPTimeout = conf.IPVS.TCPTimeout.Duration, conf.IPVS.TCPFinTimeout.Duration, conf.IPVS.UDPTimeout.Duration
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
		c.Warnings = append(c.Warnings, Warning{Where: "clientConnection.kubeconfig", Text: "clientConnection.kubeconfig is ignored because --manifests is given"})
	}
}

// YAML returns the effective configuration as a KubeProxyConfiguration file. Read back, it gives the same Config.
func (c *Config) YAML() ([]byte, error) {
	raw, err := sigsyaml.Marshal(c.External)
	if err != nil {
		return nil, fmt.Errorf("marshal configuration: %w", err)
	}
	return raw, nil
}
