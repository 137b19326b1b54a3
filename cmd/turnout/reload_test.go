package main

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	k8s "k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/testutil"
	"k8s.io/klog/v2"

	"turnout/healthcheck"
	"turnout/proxy"
	"turnout/proxy/config"
	"turnout/proxy/metrics"
	"turnout/proxy/sync"
)

const reloadHeader = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\nclusterCIDR: 10.0.0.0/8\n"

// reloaded is a proxy that never runs, whose configuration file changes.
type reloaded struct {
	*reload
	t        *testing.T
	registry k8s.KubeRegistry
	events   []nodeEvent
	noClient error // why there would be no client
}

func newReload(t *testing.T) *reloaded {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.conf")
	if err := os.WriteFile(path, []byte(reloadHeader), 0o644); err != nil {
		t.Fatal(err)
	}
	flags := config.NewFlags()
	flags.Parse([]string{"--config=" + path})
	cfg, err := flags.Config(os.ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	r := &reloaded{t: t, registry: k8s.NewKubeRegistry()}
	d := &daemon{cfg: cfg, families: []proxy.Family{proxy.IPv4}}
	d.conntrack.Store(&cfg.Conntrack)
	d.metrics = metrics.New(r.registry.MustRegister, d.families...)
	d.metrics.ConfigFileUsed()
	d.health = healthcheck.NewProxyHealth(healthcheck.ProxyHealthOptions{Timeout: healthTimeout(cfg), Families: d.families})
	facts := d.factsConfig(cfg)
	facts.Local = func(proxy.Family) []netip.Addr { return nil }
	d.loop = sync.New(sync.Options{Families: d.families, Facts: facts, Timing: timing(cfg), Metrics: d.metrics, Health: d.health})
	d.feed = &feed{nodeEvent: func(e nodeEvent) { r.events = append(r.events, e) }, check: func(*config.Config) error { return r.noClient }}
	d.open = (&fakeNode{lacks: map[config.Mode]error{config.IPVS: errors.New("no module")}}).open
	d.course.choice = choice{cfg: cfg, reason: metrics.ModeByConfiguration}
	r.reload = &reload{daemon: d}
	return r
}

// write changes the file, and returns how that ended and what events there were.
func (r *reloaded) write(text string) ([]nodeEvent, error) {
	r.events = nil
	err := r.changed(r.t.Context(), []byte(reloadHeader+text))
	return r.events, err
}

// counted compares the metrics of the configuration file.
func (r *reloaded) counted(reloads, refused, inUse string) {
	r.t.Helper()
	for name, text := range map[string]string{
		metrics.ConfigReloads:      "[ALPHA] Changes of the configuration file that took effect.\n# TYPE NAME counter\nNAME " + reloads,
		metrics.ConfigReloadErrors: "[ALPHA] Changes of the configuration file that were refused.\n# TYPE NAME counter\nNAME " + refused,
		metrics.ConfigFileInUse:    "[ALPHA] 1 if the configuration in effect is that of the file, 0 if the file was refused.\n# TYPE NAME gauge\nNAME " + inUse,
	} {
		text = strings.ReplaceAll("# HELP NAME "+text+"\n", "NAME", name)
		if err := testutil.GatherAndCompare(r.registry, strings.NewReader(text), name); err != nil {
			r.t.Error(err)
		}
	}
}

func TestReloadAtOnce(t *testing.T) {
	r := newReload(t)
	level := klog.Level(0)
	t.Cleanup(func() { _ = level.Set("0") })
	events, err := r.write("nftables: {masqueradeAll: true}\nlogging: {verbosity: 3}\n")
	want := []nodeEvent{{v1.EventTypeNormal, "ConfigurationReloaded", "ReloadConfiguration", "logging.verbosity from 0 to 3, nftables.masqueradeAll from false to true"}}
	if diff := cmp.Diff(want, events, cmp.AllowUnexported(nodeEvent{})); diff != "" || err != nil {
		t.Errorf("%v, events: -want +got\n%s", err, diff)
	}
	if !klog.V(3).Enabled() || klog.V(4).Enabled() || !r.course.cfg.MasqueradeAll {
		t.Errorf("verbosity 3 %t, 4 %t, masquerade all %t", klog.V(3).Enabled(), klog.V(4).Enabled(), r.course.cfg.MasqueradeAll)
	}
	r.counted("1", "0", "1")
	// The next change is told from what is in effect now, not from the start.
	if events, err = r.write("nftables: {masqueradeAll: true}\n"); err != nil || len(events) != 1 || events[0].note != "logging.verbosity from 3 to 0" || klog.V(1).Enabled() {
		t.Errorf("%v, events %+v", err, events)
	}
	if events, err = r.write("nftables: {masqueradeAll: true} # and no change\n"); err != nil || len(events) != 0 {
		t.Errorf("%v, events %+v", err, events)
	}
	r.counted("2", "0", "1")
}

func TestReloadRefused(t *testing.T) {
	for name, row := range map[string]struct{ text, note string }{
		"not valid":               {"oomScoreAdj: 5000\nconntrack: {min: -1}\n", " is not used. oomScoreAdj: 5000 is outside -1000 to 1000; give a number within. conntrack.min: -1 is outside 0 to 2147483647; give a number within"},
		"not valid on this node":  {"clusterCIDR: \"fd00::/8\"\n", " is not used. clusterCIDR fd00::/8 has no IPv4 prefix, which this node needs: add the one that its pods have addresses of"},
		"not even for a restart":  {"clusterCIDR: \"fd00::/8\"\nenableProfiling: true\n", " is not used. clusterCIDR fd00::/8 has no IPv4 prefix, which this node needs: add the one that its pods have addresses of"},
		"a mode that is not here": {"mode: ipvs\n", " is not used. mode: ipvs: no module"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReload(t)
			before := r.course.cfg
			text := strings.NewReplacer("mode: nftables\n", "", "clusterCIDR: 10.0.0.0/8\n", "").Replace(reloadHeader) + row.text
			err := r.changed(t.Context(), []byte(text))
			want := []nodeEvent{{v1.EventTypeWarning, "ConfigurationInvalid", "ReloadConfiguration", r.course.cfg.ConfigFile + row.note}}
			if diff := cmp.Diff(want, r.events, cmp.AllowUnexported(nodeEvent{})); diff != "" || err != nil || r.course.cfg != before {
				t.Errorf("%v, configuration stays %t, events: -want +got\n%s", err, r.course.cfg == before, diff)
			}
			r.counted("0", "1", "0")
			if _, err := r.write("# as before"); err != nil {
				t.Error(err)
			}
			r.counted("0", "1", "1")
		})
	}
}

// A change that would end the process is refused if the next one would end at its start.
func TestReloadBeforeTheEnd(t *testing.T) {
	for text, noClient := range map[string]error{"bindAddress: fd00::1\n": nil, "clientConnection: {kubeconfig: /nowhere}\n": errors.New("no such kubeconfig")} {
		r := newReload(t)
		r.noClient = noClient
		events, err := r.write(text)
		if err != nil || len(events) != 1 || events[0].reason != "ConfigurationInvalid" {
			t.Fatalf("%s%v, events %+v", text, err, events)
		}
		want := "bindAddress fd00::1 (--bind-address) makes IPv6 the primary family, but this machine has no IPv6"
		if noClient != nil {
			want = noClient.Error()
		}
		if !strings.Contains(events[0].note, want) {
			t.Errorf("%sevent %q", text, events[0].note)
		}
		r.counted("0", "1", "0")
	}
}

func TestReloadByRestart(t *testing.T) {
	r := newReload(t)
	events, err := r.write("enableProfiling: true\nnftables: {masqueradeAll: true}\nbindAddress: 192.0.2.1\n")
	if !errors.Is(err, config.ErrChanged) || !strings.HasSuffix(err.Error(), "config.conf: to be started again with bindAddress from 0.0.0.0 to 192.0.2.1, enableProfiling from false to true") {
		t.Errorf("error %v", err)
	}
	if len(events) != 0 || r.course.cfg.MasqueradeAll {
		t.Errorf("events %+v; part of the change is in effect: %t", events, r.course.cfg.MasqueradeAll)
	}
	r.counted("0", "0", "1")
}

// NodePorts on loopback addresses are not said to be missing in the one mode that serves them.
func TestLocalhostServed(t *testing.T) {
	for mode, want := range map[string]bool{"iptables": true, "nftables": false, "ipvs": false} {
		cfg := loadFile(t, "mode: "+mode+"\nnodePortAddresses: [127.0.0.0/8]\n")
		if got := (&daemon{cfg: cfg}).factsConfig(cfg).NodePorts.LocalhostServed; got != want {
			t.Errorf("mode %s: %t", mode, got)
		}
	}
}
