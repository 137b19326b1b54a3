package main

import (
	"context"
	"time"

	"k8s.io/klog/v2"

	"turnout/proxy"
	"turnout/proxy/config"
	"turnout/proxy/iptables"
	"turnout/proxy/leftovers"
	"turnout/proxy/nftables"
	"turnout/proxy/sync"
)

// engine is a mode that is open.
type engine struct {
	sync.Mode
	// watch tells the loop what others change, until the context ends; nil if the backends are asked instead.
	watch func(ctx context.Context)
	// leave are the modes that may have left rules which the loop can remove.
	leave []sync.Mode
	// scope are leftovers of kube-proxy's that are looked for.
	scope leftovers.Scope
	close func()
}

// openEngine opens the mode of the configuration for all families in use. The error says what the node lacks.
func (d *daemon) openEngine(ctx context.Context) (*engine, error) {
	if d.cfg.Mode == config.IPTables {
		return d.openIptables(ctx)
	}
	return d.openNftables()
}

func (d *daemon) openNftables() (*engine, error) {
	m := sync.Mode{Name: string(config.NFTables), Backends: map[proxy.Family]proxy.Backend{}}
	var own []uint32
	var opened []*nftables.Backend
	e := &engine{Mode: m, scope: leftovers.Scope{Iptables: true, IPVS: true}, close: func() {
		for _, b := range opened {
			_ = b.Close() // the process ends, and the rules stay in any case
		}
	}}
	for _, f := range d.families {
		b, err := nftables.New(nftables.Options{Family: f, Protect: d.cfg.ProtectTable})
		if err != nil {
			e.close()
			return nil, err
		}
		m.Backends[f], opened, own = b, append(opened, b), append(own, b.PortID())
	}
	e.watch = func(ctx context.Context) { d.watchTable(ctx, own) }
	return e, nil
}

func (d *daemon) openIptables(ctx context.Context) (*engine, error) {
	m := sync.Mode{Name: string(config.IPTables), Backends: map[proxy.Family]proxy.Backend{}}
	e := &engine{Mode: m, scope: leftovers.Scope{IPVS: true}, close: func() {}}
	for _, f := range d.families {
		o := iptables.Options{Family: f, KeepInvalid: d.cfg.Conntrack.TCPBeLiberal, LocalhostNodePorts: d.cfg.LocalhostNodePorts && f == proxy.IPv4}
		b, err := iptables.New(ctx, o)
		if err != nil {
			return nil, err
		}
		m.Backends[f] = b
		e.leave = append(e.leave, otherVariant(ctx, f, b.Choice().Variant)...)
		klog.FromContext(ctx).Info("Chose the programs of iptables", "ipFamily", f, "choice", b.Choice())
		obstacles, err := b.Obstacles()
		if err != nil {
			klog.FromContext(ctx).Error(err, "Rules that the programs of iptables cannot read are not told")
		}
		for _, o := range obstacles {
			klog.FromContext(ctx).Info("A rule of another program keeps the programs of iptables from reading its table; this proxy works nevertheless", "rule", o)
		}
	}
	if d.cfg.LocalhostNodePorts {
		d.routeLocalnet(ctx)
	}
	e.leave = append(e.leave, d.nftablesToLeave()...)
	return e, nil
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

// nftablesToLeave are the tables of mode nftables, where a kernel can have them.
func (d *daemon) nftablesToLeave() []sync.Mode {
	m := sync.Mode{Name: string(config.NFTables), Backends: map[proxy.Family]proxy.Backend{}}
	var opened []*nftables.Backend
	m.Gone = func() {
		for _, b := range opened {
			_ = b.Close() // nothing is left of what it was opened for
		}
	}
	for _, f := range d.families {
		b, err := nftables.Open(nftables.Options{Family: f})
		if err != nil {
			continue // then there are no tables either
		}
		if there, err := b.Exists(); err != nil || !there {
			_ = b.Close() // it is not needed
			continue
		}
		m.Backends[f], opened = b, append(opened, b)
	}
	if len(opened) == 0 {
		return nil
	}
	return []sync.Mode{m}
}

// watchTable has the table rebuilt when somebody else changes it.
func (d *daemon) watchTable(ctx context.Context, own []uint32) {
	for ctx.Err() == nil {
		err := nftables.Watch(ctx, own, func(i nftables.Interference) { d.loop.Interfered(ctx, i.Family, i.What, i.Process, i.PID) })
		if err == nil || ctx.Err() != nil {
			return
		}
		klog.FromContext(ctx).Error(err, "Changes that others make to the table are not noticed; this is tried again")
		select {
		case <-ctx.Done():
			return
		case <-time.After(watchRetry):
		}
		for _, f := range d.families {
			d.loop.Interfered(ctx, f, "unknown", "", 0) // there may have been some meanwhile
		}
	}
}

const watchRetry = 10 * time.Second
