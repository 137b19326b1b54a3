package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	k8smetrics "k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/component-base/version"
	"k8s.io/klog/v2"

	"turnout/conntrack"
	"turnout/healthcheck"
	"turnout/proxy"
	"turnout/proxy/config"
	"turnout/proxy/debug"
	"turnout/proxy/ipvs"
	"turnout/proxy/metrics"
	"turnout/proxy/node"
	"turnout/proxy/sync"
)

// proc is where the kernel's settings are.
const proc = node.Proc("/proc")

// daemon is the proxy with everything that it is made of.
type daemon struct {
	// cfg is the configuration of the start. What may change while the proxy runs is in effect as reload.go has it.
	cfg      *config.Config
	nodeName string
	families []proxy.Family
	course   course // of modes
	open     func(ctx context.Context, cfg *config.Config) (*engine, error)
	metrics  *metrics.Metrics
	health   *healthcheck.ProxyHealth
	services *healthcheck.Services
	feed     *feed
	loop     *sync.Loop
	addrs    *node.Addresses
	started  time.Time
	untuned  bool // settings of connection tracking were missing at the start

	mode      atomic.Value                     // the name of the one in use, for those who do not steer
	conntrack atomic.Pointer[config.Conntrack] // the settings in effect, which may be others than those of the start
}

// runProxy runs the proxy until the context ends. The rules stay as they are then.
func runProxy(ctx context.Context, cfg *config.Config) error {
	if cfg.CleanupAndExit {
		return cleanup(ctx, everything, os.Stdout)
	}
	d := &daemon{cfg: cfg, started: time.Now()}
	d.open = d.openEngine
	d.conntrack.Store(&cfg.Conntrack)
	klog.FromContext(ctx).Info("Starting", "version", version.Get().GitVersion, "mode", cfg.Asked, "modeSet", cfg.ModeSet)
	if err := d.identify(); err != nil {
		return err
	}
	var err error
	if d.feed, err = newFeed(ctx, d); err != nil {
		return err
	}
	facts := d.factsConfig(cfg)
	if err := facts.Check(d.families, d.feed.node); err != nil {
		return err
	}
	if err := d.prepareNode(ctx); err != nil {
		return err
	}
	if err := d.begin(ctx, d.feed.label()); err != nil {
		return err
	}
	if cfg.InitOnly {
		d.tuneMissing(ctx)
		klog.FromContext(ctx).Info("Everything that needs privileges is done; from now on CAP_NET_ADMIN is enough")
		return nil
	}
	if err := d.assemble(ctx, d.factsConfig(d.cfg)); err != nil {
		return err
	}
	return d.run(ctx)
}

// identify finds out the node's name and the families in use.
func (d *daemon) identify() error {
	hostname, err := os.Hostname()
	if err != nil && d.cfg.HostnameOverride == "" {
		return fmt.Errorf("find the node's name: %w; give it by --hostname-override", err)
	}
	if d.nodeName, err = node.Name(d.cfg.HostnameOverride, hostname); err != nil {
		return err
	}
	d.families = []proxy.Family{proxy.IPv4}
	if proc.IPv6() {
		d.families = append(d.families, proxy.IPv6)
	}
	return checkPrimary(d.cfg, d.families)
}

// checkPrimary tells whether the primary family, as far as it is configured, is in use.
func checkPrimary(cfg *config.Config, inUse []proxy.Family) error {
	if cfg.BindAddress.IsValid() && !slices.Contains(inUse, proxy.FamilyOf(cfg.BindAddress)) {
		return fmt.Errorf("bindAddress %s (--bind-address) makes IPv6 the primary family, but this machine has no IPv6: "+
			"enable it (net.ipv6.conf.all.disable_ipv6=0), or set an IPv4 address", cfg.BindAddress)
	}
	return nil
}

// prepareNode does what needs the most privileges: the settings of connection tracking and of the out-of-memory killer.
func (d *daemon) prepareNode(ctx context.Context) error {
	logger := klog.FromContext(ctx)
	if err := proc.SetOOMScoreAdj(d.cfg.OOMScoreAdj); err != nil {
		logger.Info("The out-of-memory score stays as it is", "error", err.Error())
	}
	var fatal []error
	for _, p := range d.tuneConntrack(ctx) {
		switch {
		case p.Fatal():
			fatal = append(fatal, p)
		case p.Missing():
			d.untuned = true // until the first table has made the kernel load the module
		default:
			logger.Info("A setting of connection tracking stays as it is", "error", p.Error())
		}
	}
	return errors.Join(fatal...)
}

// tuneLater sets what was missing at the start, once the tables are there.
func (d *daemon) tuneLater(ctx context.Context) {
	if !d.untuned {
		return
	}
	select {
	case <-ctx.Done():
		return
	case <-d.loop.Programmed():
	}
	d.tuneMissing(ctx)
}

// tuneMissing sets what was missing at the start. What a mode needs has made the kernel load connection tracking since.
func (d *daemon) tuneMissing(ctx context.Context) {
	if !d.untuned {
		return
	}
	for _, p := range d.tuneConntrack(ctx) {
		klog.FromContext(ctx).Info("A setting of connection tracking stays as it is", "error", p.Error())
	}
}

func (d *daemon) tuneConntrack(ctx context.Context) []node.Problem {
	c := d.conntrack.Load()
	written, problems := node.TuneConntrack(proc, node.ConntrackConfig{
		MaxPerCore: c.MaxPerCore, Min: c.Min, TCPEstablished: c.TCPEstablishedTimeout, TCPCloseWait: c.TCPCloseWaitTimeout,
		UDP: c.UDPTimeout, UDPStream: c.UDPStreamTimeout, TCPBeLiberal: c.TCPBeLiberal,
	}, node.Processors())
	for _, s := range written {
		klog.FromContext(ctx).Info("Set a kernel setting", "name", s.Name, "value", s.Value)
	}
	return problems
}

// assemble makes the parts that need each other.
func (d *daemon) assemble(ctx context.Context, facts sync.FactsConfig) error {
	if err := debug.PublishConfig(d.cfg.External); err != nil {
		return fmt.Errorf("publish the configuration at /configz: %w", err)
	}
	d.cfg.Gates.AddMetrics()
	if d.cfg.ShowHiddenMetricsForVersion != "" {
		k8smetrics.SetShowHidden()
	}
	d.metrics = metrics.New(legacyregistry.MustRegister, d.families...)
	legacyregistry.CustomMustRegister(d.metrics.Packets())
	if d.cfg.ConfigFile != "" {
		d.metrics.ConfigFileUsed()
	}
	if d.cfg.Manifests != "" {
		d.metrics.ManifestProblemsFound(0) // so that there is a value before the first problem
	}
	d.health = healthcheck.NewProxyHealth(healthcheck.ProxyHealthOptions{Timeout: healthTimeout(d.cfg), Families: d.families, Answers: d.metrics})
	d.services = healthcheck.NewServices(healthcheck.ServicesOptions{Healthy: d.healthy(), Logger: klog.FromContext(ctx), Failed: d.serviceHealthFailed})
	logger := klog.FromContext(ctx)
	var err error
	d.addrs, err = node.NewAddresses(node.AddressOptions{
		Ignore:  []string{ipvs.Device}, // has every address of a Service, also while another mode takes over from ipvs
		Changed: func() { d.loop.AddressesChanged() },
		Problem: func(err error) {
			logger.Error(err, "The node's addresses cannot be followed; this is tried again")
		},
	})
	if err != nil {
		logger.Error(err, "The node's addresses cannot be read; this is tried again")
	}
	cleaners := map[proxy.Family]sync.FlowCleaner{}
	for _, f := range d.families {
		cleaners[f] = conntrack.NewCleaner(f)
	}
	d.loop = sync.New(sync.Options{
		NodeName: d.nodeName, Families: d.families, Mode: d.course.engine.Mode, Leave: d.course.engine.leave, Facts: facts, Metrics: d.metrics, Health: d.health, Services: d.services,
		Conntrack: cleaners, Events: d.feed.events,
		Timing: timing(d.cfg),
	})
	return nil
}

func timing(cfg *config.Config) sync.Timing {
	s := cfg.Sync
	return sync.Timing{Quiet: s.QuietPeriod, MaxDelay: s.MaxDelay, MinPeriod: s.MinPeriod, MaxRetry: s.Period}
}

func healthTimeout(cfg *config.Config) time.Duration { return 2 * cfg.Sync.Period }

// healthy is nil if there is no health server, whose state the Services' health-check node ports would tell.
func (d *daemon) healthy() func() bool {
	if !d.cfg.HealthzBindAddress.IsValid() {
		return nil
	}
	return d.health.Healthy
}

func (d *daemon) factsConfig(cfg *config.Config) sync.FactsConfig {
	p, l := cfg.NodePortAddresses, cfg.DetectLocal
	return sync.FactsConfig{
		BindAddress: cfg.BindAddress,
		NodePorts: node.NodePortConfig{
			Prefixes: p.Prefixes, Primary: p.Primary, Localhost: p.Localhost, All: p.All, DefaultPrimary: true, LocalhostServed: cfg.LocalhostNodePorts,
		},
		Pods:          node.PodDetection{Mode: node.PodMode(l.Mode), ClusterCIDRs: cfg.ClusterCIDRs, Bridge: l.BridgeInterface, InterfacePrefix: l.InterfaceNamePrefix},
		MasqueradeAll: cfg.MasqueradeAll, MasqueradeBit: cfg.MasqueradeBit, ExternalIPs: cfg.Features.ExternalIPs,
		Local: func(f proxy.Family) []netip.Addr { return d.addrs.Of(f) },
	}
}

// run runs everything until the context ends or a part fails for good.
func (d *daemon) run(ctx context.Context) error {
	if d.feed.node != nil {
		d.loop.SetNode(d.feed.node) // before the first sync, which would otherwise know no address of the node
	}
	g, ctx := errgroup.WithContext(ctx)
	labels := make(chan string, 1)
	g.Go(func() error { return d.feed.source.Run(ctx, &nodeSink{d.loop, labels}) })
	g.Go(func() error { d.loop.Run(ctx); return nil })
	g.Go(func() error { d.services.Run(ctx); return nil })
	g.Go(func() error { return ignoreCancel(ctx, d.addrs.Run(ctx)) })
	begin, stop := watch(ctx, d.course.engine)
	d.course.stopWatching = stop
	begin()
	d.tellMode(ctx)
	g.Go(func() error { d.followLabel(ctx, d.loop.Delivered(), labels); return nil })
	g.Go(func() error { d.tuneLater(ctx); return nil })
	g.Go(func() error { d.removeLeftovers(ctx); return nil })
	g.Go(func() error { return d.followConfig(ctx) })
	g.Go(func() error {
		node.WatchFlowTable(ctx, proc, flowTablePeriod, func(p string) { d.flowTableFull(ctx, p) })
		return nil
	})
	for _, s := range d.servers() {
		g.Go(func() error { return healthcheck.ListenAndServe(ctx, s) })
	}
	d.feed.started(ctx)
	return g.Wait()
}
