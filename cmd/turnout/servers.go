package main

import (
	"fmt"
	"io"

	"k8s.io/component-base/version"

	"turnout/healthcheck"
	"turnout/proxy"
	httpdebug "turnout/proxy/debug"
)

// servers are the health server, unless it is switched off, and the metrics server.
func (d *daemon) servers() []healthcheck.ServerOptions {
	out := []healthcheck.ServerOptions{{
		Name: "metrics server", Addr: d.cfg.MetricsBindAddress.String(), HardFail: d.cfg.BindAddressHardFail,
		Handler: httpdebug.Handler(d.debugOptions()),
		Failed:  func(err error) { d.feed.nodeEvent(serverFailed("FailedToStartMetricServer", err)) },
	}}
	if d.cfg.HealthzBindAddress.IsValid() {
		out = append(out, healthcheck.ServerOptions{
			Name: "health server", Addr: d.cfg.HealthzBindAddress.String(), HardFail: d.cfg.BindAddressHardFail, Handler: d.health,
			Failed: func(err error) { d.feed.nodeEvent(serverFailed("FailedToStartProxierHealthcheck", err)) },
		})
	}
	return out
}

func (d *daemon) debugOptions() httpdebug.Options {
	o := httpdebug.Options{
		Mode: func() string { return d.mode.Load().(string) }, State: d.writeState,
		BinaryVersion: readBuildInfo().Version, EmulationVersion: version.DefaultKubeBinaryVersion,
		Started: d.started, Profiling: d.cfg.Profiling, NoStatusz: !d.cfg.Features.Statusz,
	}
	if d.cfg.Features.Flagz {
		o.Flags = func() map[string]string { return d.cfg.Flags }
	}
	return o
}

// writeState writes the States that the kernel should follow.
func (d *daemon) writeState(w io.Writer) error {
	for _, s := range d.loop.States() {
		if err := proxy.WriteText(w, s); err != nil {
			return err
		}
	}
	return nil
}

func (d *daemon) serviceHealthFailed(f healthcheck.ServiceFailure) {
	d.feed.events(f.Name, "FailedToStartServiceHealthcheck",
		fmt.Sprintf("health-check node port %d over %s: %v", f.Port, f.Family, f.Err))
}
