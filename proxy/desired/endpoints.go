package desired

import (
	"net/netip"
	"slices"

	"turnout/proxy"
	"turnout/proxy/track"
)

// reach tells where endpoints are that can take connections: ready ones, or terminating ones that still serve, which are used
// where there is no ready one.
type reach struct{ anywhere, local bool }

func reachOf(eps []track.Endpoint) (r reach) {
	for i := range eps {
		if e := &eps[i]; e.Ready || draining(e) {
			r.anywhere = true
			r.local = r.local || e.Local
		}
	}
	return r
}

// draining tells that an endpoint is about to end but still serves.
func draining(e *track.Endpoint) bool { return e.Serving && e.Terminating }

// serving lists the endpoints to which flows must live on. Ready ones are included: with publishNotReadyAddresses an
// endpoint is ready, and gets connections, while it is not serving.
func serving(eps []track.Endpoint) []netip.AddrPort {
	var out []netip.AddrPort
	for i := range eps {
		if e := &eps[i]; e.Serving || e.Ready {
			if out == nil {
				out = make([]netip.AddrPort, 0, len(eps)-i)
			}
			out = append(out, e.Addr)
		}
	}
	return out
}

// clusterPool returns the ready endpoints that topology hints leave, or else all that are draining.
func clusterPool(eps []track.Endpoint, f *Facts) []proxy.Endpoint {
	near := topology(eps, f)
	if out := pick(eps, func(e *track.Endpoint) bool { return e.Ready && near(e) }); len(out) > 0 {
		return out
	}
	return pick(eps, draining)
}

// localPool returns the ready endpoints on this node, or else those on it that are draining. Hints do not matter.
func localPool(eps []track.Endpoint) []proxy.Endpoint {
	if out := pick(eps, func(e *track.Endpoint) bool { return e.Local && e.Ready }); len(out) > 0 {
		return out
	}
	return pick(eps, func(e *track.Endpoint) bool { return e.Local && draining(e) })
}

func pick(eps []track.Endpoint, want func(*track.Endpoint) bool) []proxy.Endpoint {
	n := 0
	for i := range eps {
		if want(&eps[i]) {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	out := make([]proxy.Endpoint, 0, n)
	for i := range eps {
		if e := &eps[i]; want(e) {
			out = append(out, proxy.Endpoint{Addr: e.Addr, Local: e.Local})
		}
	}
	return out
}

// topology returns which endpoints are meant for this node (KEP-2433, KEP-3015). Hints count only if every ready endpoint has
// them and one of them names this node, or else its zone: half a set of hints would leave some clients without any endpoint.
func topology(eps []track.Endpoint, f *Facts) func(*track.Endpoint) bool {
	forNode := func(e *track.Endpoint) bool { return e.Hints.Node(f.NodeName) }
	forZone := func(e *track.Endpoint) bool { return f.Zone != "" && e.Hints.Zone(f.Zone) }
	switch {
	case hinted(eps, track.Hints.HasNodes, forNode):
		return forNode
	case hinted(eps, track.Hints.HasZones, forZone):
		return forZone
	}
	return func(*track.Endpoint) bool { return true }
}

// hinted tells that all ready endpoints have a hint of some sort and that one of them is for us.
func hinted(eps []track.Endpoint, has func(track.Hints) bool, forUs func(*track.Endpoint) bool) bool {
	found := false
	for i := range eps {
		e := &eps[i]
		if !e.Ready {
			continue
		}
		if !has(e.Hints) {
			return false
		}
		found = found || forUs(e)
	}
	return found
}

// localReady counts the addresses of the ready endpoints on this node that are not terminating, all ports together. External
// load balancers must turn away from a node before its last endpoint ends, so that terminating ones do not count here.
func localReady(e *track.Endpoints, fam proxy.Family) int {
	if e == nil {
		return 0
	}
	var addrs []netip.Addr
	for i := range e.Ports {
		for _, ep := range e.Ports[i].Family(fam) {
			if ep.Local && ep.Ready && !ep.Terminating {
				addrs = append(addrs, ep.Addr.Addr())
			}
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return len(slices.Compact(addrs))
}
