package desired

import (
	"turnout/proxy"
	"turnout/proxy/track"
)

// actions are one Action for each Origin.
type actions = [3]proxy.Action

func all(a proxy.Action) actions { return actions{a, a, a} }

// internalActions says what happens to connections to the ClusterIP. They are masqueraded if their source is not a local pod,
// since the answers of an endpoint elsewhere would not pass through this node otherwise.
func internalActions(s *track.Service, r reach, f *Facts, fam proxy.Family) actions {
	pool := proxy.Cluster
	switch {
	case !r.anywhere:
		return all(proxy.Action{Verdict: proxy.Reject})
	case s.InternalLocal && !r.local:
		return all(proxy.Action{Verdict: proxy.Drop})
	case s.InternalLocal:
		pool = proxy.Local
	}
	pod := proxy.Action{Pool: pool, Masquerade: f.MasqueradeAll}
	other := proxy.Action{Pool: pool, Masquerade: f.MasqueradeAll || f.knowsPods(fam)}
	return actions{proxy.FromPod: pod, proxy.FromNode: other, proxy.FromElsewhere: other}
}

// externalActions says what happens to connections to node ports, external IPs and load-balancer IPs. Policy Local is about
// connections that come from outside: pods and the node itself are inside, and reach all endpoints as through the ClusterIP.
func externalActions(s *track.Service, r reach, f *Facts, fam proxy.Family) actions {
	switch {
	case !r.anywhere:
		return all(proxy.Action{Verdict: proxy.Reject})
	case !s.ExternalLocal:
		return all(proxy.Action{Pool: proxy.Cluster, Masquerade: true})
	}
	elsewhere := proxy.Action{Pool: proxy.Local}
	if !r.local { // most likely the load balancer is late, and trying again will help
		elsewhere = proxy.Action{Verdict: proxy.Drop}
	}
	pod := elsewhere
	if f.knowsPods(fam) {
		pod = proxy.Action{Pool: proxy.Cluster}
	}
	return actions{
		proxy.FromPod:       pod,
		proxy.FromNode:      {Pool: proxy.Cluster, Masquerade: true},
		proxy.FromElsewhere: elsewhere,
	}
}
