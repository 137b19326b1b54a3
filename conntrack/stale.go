package conntrack

import (
	"net/netip"
	"slices"

	"turnout/proxy"
)

// Change is how one Service differs between two States. Old is nil if it is new, New is nil if it is gone. A frontend that
// goes from one Service to another belongs to the new one, in whatever order the two changes come.
type Change struct {
	Old, New *proxy.Service
}

// index is what must be known to tell stale flows from others: who owns each UDP frontend, and which frontends may have
// stale flows. It knows the unchanged ones too, because two frontends can cover the same address (an external IP that is
// also a node's address, and a NodePort): then a change of one must not touch the flows of the other.
type index struct {
	owners map[proxy.FrontendKey]*proxy.Service
	// dirty are the frontends whose flows are to be judged: those that came or went, or whose serving endpoints changed.
	dirty map[proxy.FrontendKey]struct{}
	// nodeAddrs are the addresses on which NodePorts are served.
	nodeAddrs map[netip.Addr]struct{}
}

func newIndex() *index {
	return &index{
		owners:    map[proxy.FrontendKey]*proxy.Service{},
		dirty:     map[proxy.FrontendKey]struct{}{},
		nodeAddrs: map[netip.Addr]struct{}{},
	}
}

// update takes in changed Services. Those of other protocols than UDP are passed over: TCP and SCTP have an end of their
// own, and a removed flow would cut the connections that a terminating endpoint is still finishing.
func (x *index) update(changed []Change) {
	for _, c := range changed {
		if c.Old != nil && c.Old.Name.Protocol == proxy.UDP {
			x.disown(c.Old, c.New)
		}
		if c.New != nil && c.New.Name.Protocol == proxy.UDP {
			x.own(c.New)
		}
	}
}

// own makes s the owner of its frontends. Only what a flow's fate depends on makes a frontend dirty, so that changes of
// readiness, hints or policies cost no look at the kernel.
func (x *index) own(s *proxy.Service) {
	for i := range s.Frontends {
		k := s.Key(&s.Frontends[i])
		prev := x.owners[k]
		x.owners[k] = s
		if prev == nil || !slices.Equal(prev.Serving, s.Serving) {
			x.dirty[k] = struct{}{}
		}
	}
}

// disown takes the frontends of old away that next, its new version or nil, does not have, unless another Service has taken
// them over already.
func (x *index) disown(old, next *proxy.Service) {
	for i := range old.Frontends {
		k := old.Key(&old.Frontends[i])
		if next != nil && slices.ContainsFunc(next.Frontends, func(f proxy.Frontend) bool { return next.Key(&f) == k }) {
			continue
		}
		if owner := x.owners[k]; owner == nil || owner.Name == old.Name {
			delete(x.owners, k)
			x.dirty[k] = struct{}{}
		}
	}
}

// setNodeAddrs replaces the addresses on which NodePorts are served. Flows to an added one may have bypassed the NodePorts
// until now, so all of these become dirty. Flows to a removed one are left alone: nothing can say whose they are.
func (x *index) setNodeAddrs(addrs []netip.Addr) {
	next := make(map[netip.Addr]struct{}, len(addrs))
	added := false
	for _, a := range addrs {
		a = a.Unmap()
		next[a] = struct{}{}
		if _, had := x.nodeAddrs[a]; !had {
			added = true
		}
	}
	x.nodeAddrs = next
	if !added {
		return
	}
	for k := range x.owners {
		if !k.Addr.IsValid() {
			x.dirty[k] = struct{}{}
		}
	}
}

// stale tells whether a flow must go: it was sent to a dirty frontend, and packets that the present rules see would not go
// where it sends them.
//
// A frontend with an owner: everything but flows to serving endpoints, whatever the policies say about new ones. That covers
// endpoints that are gone, frontends that have changed hands, and flows that began before the frontend was there and so
// bypass it (their answers come from the frontend's own address).
//
// A frontend that nobody owns any more: flows that were translated. No rule would send them there today, and as long as the
// client keeps sending, the kernel would never forget them, even if the endpoint's address is dead or another pod's. Flows
// that were not translated are what the kernel makes of packets to that address without us, such as those to a local program
// that listens on a former node port.
func (x *index) stale(f Flow) bool {
	if f.Protocol != proxy.UDP {
		return false
	}
	owner, dirty := x.match(f.Original.Dst)
	if !dirty {
		return false
	}
	if owner == nil {
		return f.Reply.Src != f.Original.Dst
	}
	_, serving := slices.BinarySearchFunc(owner.Serving, f.Reply.Src, netip.AddrPort.Compare)
	return !serving
}

// match returns who owns the frontend that packets to an address meet, nil if nobody does, and whether it is dirty. As in
// every Backend, a frontend of that very address comes before a NodePort. NodePorts of loopback addresses count in every mode, though
// only mode iptables serves them: in the others, a local program's flow that is removed by mistake begins anew with its next packet.
func (x *index) match(dst netip.AddrPort) (owner *proxy.Service, dirty bool) {
	own := proxy.FrontendKey{Addr: dst.Addr(), Port: dst.Port(), Protocol: proxy.UDP}
	_, ownDirty := x.dirty[own]
	if owner := x.owners[own]; owner != nil {
		return owner, ownDirty
	}
	if _, ok := x.nodeAddrs[dst.Addr()]; !ok && !dst.Addr().IsLoopback() {
		return nil, ownDirty
	}
	node := proxy.FrontendKey{Port: dst.Port(), Protocol: proxy.UDP}
	_, nodeDirty := x.dirty[node]
	return x.owners[node], ownDirty || nodeDirty
}

// filter returns the narrowest dump that has all flows to dirty frontends: often one Service changes, and then the kernel
// need not send every flow of the node.
func (x *index) filter(family proxy.Family) filter {
	f := filter{family: family, protocol: proxy.UDP}
	first := true
	for k := range x.dirty {
		if first {
			f.addr, f.port, first = k.Addr, k.Port, false
			continue
		}
		if f.addr != k.Addr {
			f.addr = netip.Addr{}
		}
		if f.port != k.Port {
			f.port = 0
		}
	}
	return f
}
