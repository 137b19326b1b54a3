package sync

import (
	"context"
	"errors"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"turnout/proxy"
	"turnout/proxy/metrics"
)

// telling is a Backend whose Reports have more, and which fails if it is told to.
type telling struct {
	proxy.Backend
	report proxy.Report
	broken recorded // errors to come
}

func (b *telling) Apply(ctx context.Context, s *proxy.State) (proxy.Report, error) {
	if errs := b.broken.take(); len(errs) > 0 {
		return proxy.Report{Failures: b.report.Failures}, errors.New(errs[0])
	}
	r, err := b.Backend.Apply(ctx, s)
	r.Tables = b.report.Tables
	return r, err
}

// The metrics of a mode begin when it is taken into use, hear of every Apply from then on, and end with it.
func TestMetricsOfModes(t *testing.T) {
	run(t, func(r *rig) {
		r.loop.SetService(service("web", "10.96.0.1", v1.ProtocolTCP))
		r.synced()
		switchTo := func(m Mode) {
			r.loop.SwitchTo(m, func(err error) {
				if err != nil {
					t.Error(err)
				}
			})
			r.settle()
		}
		second := newOther("iptables", 0)
		b := &telling{Backend: second.Backends[proxy.IPv4], report: proxy.Report{
			Failures: proxy.Failures{All: 2, Changes: 1}, Tables: []proxy.Table{{Name: "nat", Rules: 30, Written: 4}},
		}}
		second.Backends[proxy.IPv4] = b
		switchTo(second.Mode)
		r.wantValue(30, metrics.IptablesRules, ipv4, "table=nat")
		r.wantValue(4, metrics.IptablesRulesWritten, ipv4, "table=nat")
		r.wantValue(0, metrics.IptablesRestoreFailures, ipv4)
		b.broken.add("refused")
		r.loop.SetService(service("more", "10.96.0.2", v1.ProtocolTCP))
		r.after(time.Minute)
		r.wantValue(2, metrics.IptablesRestoreFailures, ipv4)
		r.wantValue(1, metrics.IptablesPartialRestoreFailures, ipv4)
		r.wantValue(0, metrics.IptablesRestoreFailures, ipv6)
		r.wantValue(1, metrics.SyncFailures, ipv4)

		switchTo(newOther("nftables", 0).Mode)
		r.wantValue(0, metrics.NFTablesSyncFailures, ipv4)
		families, err := r.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			switch f.GetName() {
			case metrics.IptablesRules, metrics.IptablesRulesWritten, metrics.IptablesRestoreFailures, metrics.IptablesPartialRestoreFailures:
				t.Errorf("%s is there in mode nftables", f.GetName())
			}
		}
	}, exact)
}
