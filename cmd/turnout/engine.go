package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"turnout/proxy"
	"turnout/proxy/config"
	"turnout/proxy/iptables"
	"turnout/proxy/ipvs"
	"turnout/proxy/ipvs/genl"
	"turnout/proxy/leftovers"
	"turnout/proxy/nftables"
	"turnout/proxy/node"
	"turnout/proxy/sync"
)

// reasonUnreadable is the reason of events about tables that the programs of iptables cannot read.
const reasonUnreadable = "TablesUnreadable"

// engine is a mode that is open. Its sockets are closed by Gone.
type engine struct {
	sync.Mode
	// watch tells the loop what others change, once inUse is closed and until the context ends; nil if the backends are only asked.
	watch func(ctx context.Context, inUse <-chan struct{})
	// leave are the modes that may have left rules which the loop can remove.
	leave []sync.Mode
	// scope are leftovers of kube-proxy's that are looked for.
	scope leftovers.Scope
}

// openEngine opens a configuration's mode for all families in use. The error says what the node lacks.
func (d *daemon) openEngine(ctx context.Context, cfg *config.Config) (*engine, error) {
	switch cfg.Mode {
	case config.IPTables:
		return d.openIptables(ctx, cfg)
	case config.IPVS:
		return d.openIPVS(cfg)
	default:
		return d.openNftables(ctx, cfg)
	}
}

func newEngine(m config.Mode) *engine {
	return &engine{Mode: sync.Mode{Name: string(m), Backends: map[proxy.Family]proxy.Backend{}, Gone: func() {}}}
}

// leaveNothing is for an engine that takes another's place while the proxy runs: what earlier processes left was seen to at the start, and what is in use
// is removed by the loop.
func (e *engine) leaveNothing() {
	for _, m := range e.leave {
		if m.Gone != nil {
			m.Gone()
		}
	}
	e.leave = nil
}

// closes adds something to close when the mode is not used any longer. What goes wrong then is in nobody's way.
func (e *engine) closes(c interface{ Close() error }) {
	before := e.Gone
	e.Gone = func() {
		before()
		_ = c.Close()
	}
}

func (d *daemon) openNftables(ctx context.Context, cfg *config.Config) (*engine, error) {
	e := newEngine(config.NFTables)
	var own []uint32
	for _, f := range d.families {
		b, err := nftables.New(nftables.Options{Family: f, Protect: cfg.ProtectTable})
		if err != nil {
			e.Gone()
			return nil, err
		}
		e.closes(b)
		e.Backends[f], own = b, append(own, b.PortID())
	}
	e.watch = func(ctx context.Context, inUse <-chan struct{}) { d.watchTable(ctx, nftables.Watch, own, inUse) }
	e.scope = leftovers.Scope{Iptables: true, IPVSRules: true}
	e.leave = d.ipvsToLeave(ctx, cfg)
	return e, nil
}

func (d *daemon) openIptables(ctx context.Context, cfg *config.Config) (*engine, error) {
	e := newEngine(config.IPTables)
	e.Gone = func() {
		for _, f := range d.families {
			d.metrics.TablesRead(f, nil)
		}
	}
	liberal := cfg.Conntrack.TCPBeLiberal || node.TCPLiberal(proc)
	if liberal {
		klog.FromContext(ctx).Info("Packets that connection tracking cannot place are forwarded", "reason", "nf_conntrack_tcp_be_liberal is set")
	}
	for _, f := range d.families {
		b, err := iptables.New(ctx, iptables.Options{
			Family: f, KeepInvalid: liberal, LocalhostNodePorts: cfg.LocalhostNodePorts && f == proxy.IPv4,
			Obstructed: func(rules map[string][]string) { d.obstructed(ctx, f, rules) },
		})
		if err != nil {
			return nil, err
		}
		e.Backends[f] = b
		e.leave = append(e.leave, otherVariant(ctx, f, b.Choice().Variant)...)
		klog.FromContext(ctx).Info("Chose the programs of iptables", "ipFamily", f, "choice", b.Choice())
	}
	if cfg.LocalhostNodePorts {
		d.routeLocalnet(ctx)
	}
	e.scope = leftovers.Scope{IPVSRules: true}
	e.leave = append(e.leave, d.nftablesToLeave()...)
	e.leave = append(e.leave, d.ipvsToLeave(ctx, cfg)...)
	return e, nil
}

// obstructed reports rules of others that keep the programs of iptables from reading tables.
func (d *daemon) obstructed(ctx context.Context, f proxy.Family, byTable map[string][]string) {
	d.metrics.TablesRead(f, byTable)
	var all []string
	for _, table := range slices.Sorted(maps.Keys(byTable)) {
		all = append(all, byTable[table]...)
	}
	if len(all) == 0 {
		return
	}
	const what = "Rules of other programs keep the programs of iptables from reading their tables; this proxy works nevertheless. Have their owners use tables of their own, or run mode nftables"
	klog.FromContext(ctx).Info(what, "ipFamily", f, "rules", all)
	d.feed.nodeEvent(nodeEvent{v1.EventTypeWarning, reasonUnreadable, "SyncRules", fmt.Sprintf("%s (%s): %s", what, f, strings.Join(all, "; "))})
}

func (d *daemon) openIPVS(cfg *config.Config) (*engine, error) {
	e := newEngine(config.IPVS)
	var own []uint32
	for _, f := range d.families {
		b, err := ipvs.New(ipvs.Options{
			Family: f, Scheduler: cfg.IPVS.Scheduler, StrictARP: cfg.IPVS.StrictARP, Exclude: cfg.IPVS.Exclude, Sysctl: proc,
			Timeouts: genl.Timeouts{TCP: cfg.IPVS.TCPTimeout, TCPFin: cfg.IPVS.TCPFinTimeout, UDP: cfg.IPVS.UDPTimeout},
		})
		if err != nil {
			e.Gone()
			return nil, err
		}
		e.closes(b)
		e.Backends[f], own = b, append(own, b.PortID())
	}
	// The rest of what the mode has is asked for.
	e.watch = func(ctx context.Context, inUse <-chan struct{}) { d.watchTable(ctx, nftables.WatchGate, own, inUse) }
	e.scope = leftovers.Scope{Iptables: true, IPVSRules: true}
	e.leave = d.nftablesToLeave()
	return e, nil
}

// nftablesToLeave are the tables of mode nftables, where a kernel can have them.
func (d *daemon) nftablesToLeave() []sync.Mode {
	e := newEngine(config.NFTables)
	for _, f := range d.families {
		b, err := nftables.Open(nftables.Options{Family: f})
		if err != nil {
			continue // then there are no tables either
		}
		if there, err := b.Exists(); err != nil || !there {
			_ = b.Close() // it is not needed
			continue
		}
		e.closes(b)
		e.Backends[f] = b
	}
	return e.unlessEmpty()
}

// ipvsToLeave is what a proxy of mode ipvs left, this one or kube-proxy.
func (d *daemon) ipvsToLeave(ctx context.Context, cfg *config.Config) []sync.Mode {
	e := newEngine(config.IPVS)
	var errs []error
	for _, f := range d.families {
		there, err := ipvs.Remains(f)
		if err != nil || !there {
			errs = append(errs, err)
			continue
		}
		b, err := ipvs.Open(ipvs.Options{Family: f, Exclude: cfg.IPVS.Exclude})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		e.closes(b)
		e.Backends[f] = b
	}
	if err := errors.Join(errs...); err != nil {
		klog.FromContext(ctx).Error(err, "What a proxy in mode ipvs may have left on this node stays")
	}
	if len(e.Backends) > 0 {
		d.tellForeignServers(ctx)
	}
	return e.unlessEmpty()
}

// tellForeignServers logs the virtual servers that stay, since they may be somebody else's.
func (d *daemon) tellForeignServers(ctx context.Context) {
	found, err := leftovers.FindIPVS()
	if err != nil {
		return // ipvsToLeave has looked at the same, and has logged it
	}
	for _, o := range found.Kept() {
		klog.FromContext(ctx).Info("A virtual server stays: it may be somebody else's. If it is a NodePort of kube-proxy's, remove it: ipvsadm --delete-service", "object", o.String())
	}
}

func (e *engine) unlessEmpty() []sync.Mode {
	if len(e.Backends) == 0 {
		return nil
	}
	return []sync.Mode{e.Mode}
}

// otherVariant is what a proxy left in the tables of the variant of iptables that is not used. Packets would meet these rules, too.
func otherVariant(ctx context.Context, f proxy.Family, used iptables.Variant) []sync.Mode {
	other, there := iptables.NFT, false
	if used == iptables.NFT {
		other = iptables.Legacy
		found, err := leftovers.FindLegacy(leftovers.Scope{Iptables: true}, f)
		there = err == nil && len(found.Objects()) > 0
	} else {
		found, err := leftovers.FindIptables(leftovers.Scope{Iptables: true}, f)
		there = err == nil && len(found.Objects()) > 0
	}
	if !there {
		return nil
	}
	b, err := iptables.Open(ctx, iptables.Options{Family: f, Variant: other})
	if err != nil {
		klog.FromContext(ctx).Error(err, "Rules of another proxy are left on this node and may act on packets", "ipFamily", f, "variant", other)
		return nil
	}
	return []sync.Mode{{Name: "iptables with the variant " + string(other), Backends: map[proxy.Family]proxy.Backend{f: b}}}
}

// routeLocalnet lets packets to NodePorts on loopback addresses leave the node.
func (d *daemon) routeLocalnet(ctx context.Context) {
	const name = "net/ipv4/conf/all/route_localnet"
	if v, err := proc.Read(name); err == nil && v == "1" {
		return
	}
	if err := proc.Write(name, "1"); err != nil {
		klog.FromContext(ctx).Error(err, "NodePorts are not served on loopback addresses; have the setting made by the node, or set iptables.localhostNodePorts to false", "setting", name)
		return
	}
	klog.FromContext(ctx).Info("Set a kernel setting", "name", name, "value", 1)
}
