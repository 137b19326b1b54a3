package ipvs

import "turnout/proxy"

// A Limit is something that a State may ask for and mode ipvs cannot do.
type Limit struct {
	// Name is short and stable.
	Name string
	// Text says what happens instead.
	Text string
}

// Limits lists everything that mode ipvs does in another way than a State says. The first is what Expressible does to a State; what the others
// are about is no part of it.
func Limits() []Limit {
	return []Limit{
		{"one-pool", "A virtual server has one pool of endpoints, whoever the client is. With a Local external traffic policy and endpoints on this node, " +
			"clients on this node and in its pods are sent to those, too, instead of to all endpoints."},
		{"undefined-ports", "Every address of a Service is an address of this node: ports that it does not have are refused on external and load-balancer IPs as on ClusterIPs, " +
			"instead of being routed on."},
		{"own-source", "A process on this node that connects to a Service without having chosen a source address is masqueraded, also where nothing else " +
			"asks for it: its source would be the Service's own address."},
		{"affinity", "Session affinity is kept for each frontend by itself. A client that is known at the ClusterIP of a Service may be sent to another endpoint at its NodePort."},
		{"frontend-gone", "Connections through an address, or to a NodePort, end when the Service loses that address or port. When it only loses endpoints, TCP connections to these go on."},
		{"new-node-address", "NodePorts are served on the addresses that the node had at the last sync, even if any address may serve them."},
	}
}

// Expressible returns the State that mode ipvs can follow: all origins that are forwarded by a frontend are sent to the same pool. Everything
// else is as it was, and a Service that needs no change keeps its pointer.
func Expressible(s *proxy.State) *proxy.State {
	out := *s
	for name, service := range s.Services.All() {
		if x := expressible(service); x != service {
			out.Services = out.Services.Set(name, x)
		}
	}
	return &out
}

func expressible(s *proxy.Service) *proxy.Service {
	out := s
	for i := range s.Frontends {
		pool := poolOf(&s.Frontends[i])
		for o, a := range s.Frontends[i].Actions {
			if a.Verdict != proxy.Forward || a.Pool == pool {
				continue
			}
			if out == s {
				x := *s
				x.Frontends = append([]proxy.Frontend(nil), s.Frontends...)
				out = &x
			}
			out.Frontends[i].Actions[o].Pool = pool
		}
	}
	return out
}

// poolOf chooses the pool of a frontend's virtual server: that of clients elsewhere, as theirs is the policy that the Service states, unless they are
// not forwarded at all.
func poolOf(f *proxy.Frontend) proxy.Pool {
	for _, o := range []proxy.Origin{proxy.FromElsewhere, proxy.FromNode, proxy.FromPod} {
		if a := f.Actions[o]; a.Verdict == proxy.Forward {
			return a.Pool
		}
	}
	return proxy.Cluster
}

// forwards tells whether a frontend leads any client to an endpoint.
func forwards(f *proxy.Frontend) bool {
	for _, a := range f.Actions {
		if a.Verdict == proxy.Forward {
			return true
		}
	}
	return false
}
