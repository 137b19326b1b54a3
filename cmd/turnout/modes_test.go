package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"turnout/proxy/config"
	"turnout/proxy/metrics"
	"turnout/proxy/sync"
)

// A fakeNode is one that lacks what some modes need.
type fakeNode struct {
	lacks          map[config.Mode]error
	opened, closed []config.Mode
	unneeded       int // modes that need not be left
}

func (n *fakeNode) open(_ context.Context, cfg *config.Config) (*engine, error) {
	if err := n.lacks[cfg.Mode]; err != nil {
		return nil, err
	}
	n.opened = append(n.opened, cfg.Mode)
	before := sync.Mode{Name: "before", Gone: func() { n.unneeded++ }}
	return &engine{Mode: sync.Mode{Name: string(cfg.Mode), Gone: func() { n.closed = append(n.closed, cfg.Mode) }}, leave: []sync.Mode{before}}, nil
}

// loadFile loads a configuration file.
func loadFile(t *testing.T, text string) *config.Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.conf")
	if err := os.WriteFile(path, []byte("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"+text), 0o644); err != nil {
		t.Fatal(err)
	}
	flags := config.NewFlags()
	flags.Parse([]string{"--config=" + path})
	cfg, err := flags.Config(os.ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// Which mode is taken at the start, why, and what is told of it.
func TestModeOfStart(t *testing.T) {
	kernel, programs := errors.New("no nf_tables"), errors.New("no iptables")
	rows := map[string]struct {
		text, label string
		lacks       map[config.Mode]error
		want        config.Mode
		reason      metrics.ModeReason
		why, err    string // why it is not another; why it is none
		refused     string // the note of the event
	}{
		"unset":           {want: config.NFTables, reason: metrics.ModeByDefault},
		"set":             {text: "mode: ipvs", want: config.IPVS, reason: metrics.ModeByConfiguration},
		"set, impossible": {text: "mode: iptables", lacks: map[config.Mode]error{config.IPTables: programs}, err: "no iptables"},
		"label":           {text: "mode: ipvs", label: "iptables", want: config.IPTables, reason: metrics.ModeByLabel},
		"label, impossible": {text: "mode: ipvs", label: "iptables", lacks: map[config.Mode]error{config.IPTables: programs}, want: config.IPVS, reason: metrics.ModeByConfiguration,
			refused: "the mode of the configuration is taken: no iptables"},
		"label, no mode": {label: "iptable", want: config.NFTables, reason: metrics.ModeByDefault,
			refused: `the mode of the configuration is taken: label turnout/proxy-mode: "iptable" is not a mode; did you mean "iptables"?; set nftables, iptables, ipvs or auto`},
		"auto":        {text: "mode: auto", want: config.NFTables, reason: metrics.ModeByAuto},
		"auto, label": {label: "auto", want: config.NFTables, reason: metrics.ModeByAuto},
		"auto, second": {text: "mode: auto", lacks: map[config.Mode]error{config.NFTables: kernel}, want: config.IPTables, reason: metrics.ModeByFallback,
			why: "mode nftables: no nf_tables"},
		"auto, third": {text: "mode: auto", lacks: map[config.Mode]error{config.NFTables: kernel, config.IPTables: programs}, want: config.IPVS, reason: metrics.ModeByFallback,
			why: "mode nftables: no nf_tables\nmode iptables: no iptables"},
		"auto, none": {text: "mode: auto", lacks: map[config.Mode]error{config.NFTables: kernel, config.IPTables: programs, config.IPVS: kernel},
			err: "this node can run no mode: mode nftables: no nf_tables\nmode iptables: no iptables\nmode ipvs: no nf_tables"},
	}
	for name, r := range rows {
		t.Run(name, func(t *testing.T) {
			n := &fakeNode{lacks: r.lacks}
			var events []nodeEvent
			d := &daemon{cfg: loadFile(t, r.text), open: n.open, feed: &feed{nodeEvent: func(e nodeEvent) { events = append(events, e) }}}
			err := d.begin(t.Context(), r.label)
			if r.err != "" {
				if err == nil || err.Error() != r.err || len(n.opened) > 0 {
					t.Fatalf("%v, opened %v; want error %s", err, n.opened, r.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			c := d.course.choice
			why := ""
			if c.lacks != nil {
				why = c.lacks.Error()
			}
			if c.cfg.Mode != r.want || d.cfg != c.cfg || c.engine.Name != string(r.want) || c.reason != r.reason || why != r.why || !slices.Equal(n.opened, []config.Mode{r.want}) {
				t.Errorf("mode %s, engine %s, reason %s, why %q; opened %v", c.cfg.Mode, c.engine.Name, c.reason, why, n.opened)
			}
			if d.course.label != r.label && r.refused == "" {
				t.Errorf("follows label %q, want %q", d.course.label, r.label)
			}
			var want []nodeEvent
			if r.refused != "" {
				want = []nodeEvent{{"Warning", "ProxyModeRefused", "ChooseProxyMode", r.refused}}
			}
			if diff := cmp.Diff(want, events, cmp.AllowUnexported(nodeEvent{}), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("events: -want +got\n%s", diff)
			}
		})
	}
}

// What fails because the process is to end says nothing of the node: no other mode is chosen instead, and nobody is told.
func TestChoiceAtTheEnd(t *testing.T) {
	for text, label := range map[string]string{"mode: auto": "", "mode: nftables": "iptables", "mode: iptables": "", "# unset": "auto"} {
		ctx, cancel := context.WithCancel(t.Context())
		d := &daemon{cfg: loadFile(t, text), feed: &feed{nodeEvent: func(e nodeEvent) { t.Errorf("%s, label %q: event %+v", text, label, e) }}}
		tried := 0
		d.open = func(context.Context, *config.Config) (*engine, error) {
			tried++
			cancel()
			return nil, errors.New("signal: killed")
		}
		if err := d.begin(ctx, label); !errors.Is(err, context.Canceled) || tried != 1 {
			t.Errorf("%s, label %q: error %v after trying %d modes", text, label, err, tried)
		}
	}
	r := newReload(t)
	ctx, cancel := context.WithCancel(t.Context())
	r.open = func(context.Context, *config.Config) (*engine, error) {
		cancel()
		return nil, errors.New("signal: killed")
	}
	err := r.changed(ctx, []byte(strings.Replace(reloadHeader, "mode: nftables", "mode: iptables", 1)))
	if !errors.Is(err, context.Canceled) || len(r.events) != 0 {
		t.Errorf("a changed file: error %v, events %v", err, r.events)
	}
	r.counted("0", "0", "1")
}

// A changed file that asks for another mode is taken if the node can have that, and the mode in use stays if it is the one that is asked for.
func TestReloadOfMode(t *testing.T) {
	n := &fakeNode{lacks: map[config.Mode]error{config.IPVS: errors.New("no module")}}
	for _, row := range []struct {
		text    string
		restart bool
		reason  metrics.ModeReason
		closed  []config.Mode
		event   string
	}{
		{text: "mode: auto", reason: metrics.ModeByAuto, event: "mode nftables (auto)"},
		{text: "", reason: metrics.ModeByDefault},
		{text: "mode: auto\nclusterCIDR: fd00::/8", reason: metrics.ModeByConfiguration, event: "is not used. clusterCIDR fd00::/8"},
		{text: "mode: ipvs", reason: metrics.ModeByConfiguration, event: "is not used. mode: ipvs: no module"},
		{text: "mode: iptables", restart: true, reason: metrics.ModeByConfiguration, closed: []config.Mode{config.IPTables}},
	} {
		r := newReload(t)
		r.open, n.closed = n.open, nil
		r.course.engine = &engine{Mode: sync.Mode{Name: "nftables"}}
		text := strings.Replace(reloadHeader, "mode: nftables", row.text, 1)
		if strings.Contains(row.text, "clusterCIDR") {
			text = strings.Replace(text, "clusterCIDR: 10.0.0.0/8\n", "", 1)
		}
		err := r.changed(t.Context(), []byte(text))
		if errors.Is(err, config.ErrChanged) != row.restart || r.course.reason != row.reason || r.course.cfg.Mode != config.NFTables || !slices.Equal(n.closed, row.closed) {
			t.Errorf("%s: %v; mode %s, reason %s, closed %v", row.text, err, r.course.cfg.Mode, r.course.reason, n.closed)
		}
		if text := fmt.Sprint(r.events); row.event != "" && !strings.Contains(text, row.event) || row.event == "" && len(r.events) > 0 {
			t.Errorf("%s: events %s, want %q", row.text, text, row.event)
		}
	}
}

// As long as the Node has a label, the file's mode waits, also if the label leaves the choice to the proxy.
func TestReloadBesideLabel(t *testing.T) {
	for label, reason := range map[string]metrics.ModeReason{"nftables": metrics.ModeByLabel, "auto": metrics.ModeByAuto} {
		n := &fakeNode{}
		r := newReload(t)
		r.open, r.course.engine, r.course.label, r.course.reason = n.open, &engine{Mode: sync.Mode{Name: "nftables"}}, label, reason
		err := r.changed(t.Context(), []byte(strings.Replace(reloadHeader, "mode: nftables", "mode: iptables", 1)))
		if err != nil || len(n.opened) > 0 || r.course.cfg.Mode != config.NFTables || r.course.cfg.Asked != config.IPTables || r.course.reason != reason {
			t.Errorf("label %s: %v; opened %v, mode %s, asked %s, reason %s", label, err, n.opened, r.course.cfg.Mode, r.course.cfg.Asked, r.course.reason)
		}
	}
}

// A label that cannot be followed is told once for each reason, however often the Node changes, and also if the start told it.
func TestRefusedLabelIsToldOnce(t *testing.T) {
	n := &fakeNode{lacks: map[config.Mode]error{config.IPVS: errors.New("no module")}}
	var events []string
	d := &daemon{cfg: loadFile(t, ""), open: n.open, feed: &feed{nodeEvent: func(e nodeEvent) { events = append(events, e.note) }}}
	if err := d.begin(t.Context(), "ipvs"); err != nil {
		t.Fatal(err)
	}
	d.mode.Store("nftables") // as what follows the start does
	labels, delivered, ended := make(chan string), make(chan struct{}), make(chan struct{})
	close(delivered)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { defer close(ended); d.followLabel(ctx, delivered, labels) }()
	for _, l := range []string{"ipvs", "ipvs", "no mode", "no mode", "", "ipvs", ""} {
		labels <- l
	}
	cancel()
	<-ended
	const start, noMode, ipvs = "the mode of the configuration is taken: no module", `the mode stays nftables: label turnout/proxy-mode: "no mode" is not a mode; set nftables, iptables, ipvs or auto`, "the mode stays nftables: no module"
	if diff := cmp.Diff([]string{start, noMode, ipvs}, events); diff != "" {
		t.Errorf("events: -want +got\n%s", diff)
	}
	if len(n.opened) != 1 || len(n.closed) != 0 || n.unneeded != 0 {
		t.Errorf("opened %v, closed %v, %d modes are not left", n.opened, n.closed, n.unneeded)
	}
}

// What keeps others' rules to be removed at the start is closed when a mode is opened later, whether it is taken or not.
func TestNothingIsLeftLater(t *testing.T) {
	n := &fakeNode{}
	d := &daemon{cfg: loadFile(t, ""), open: n.open, feed: &feed{}}
	if err := d.begin(t.Context(), ""); err != nil || len(d.course.engine.leave) != 1 || n.unneeded != 0 {
		t.Fatalf("%v; at the start: %d to leave, %d closed", err, len(d.course.engine.leave), n.unneeded)
	}
	c, err := d.choose(t.Context(), d.course.cfg, "iptables")
	if err != nil || len(c.engine.leave) != 0 || n.unneeded != 1 {
		t.Errorf("%v; later: %d to leave, %d closed", err, len(c.engine.leave), n.unneeded)
	}
}
