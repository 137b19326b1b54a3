package ipvs

import (
	"net/netip"
	"slices"

	"turnout/proxy"
	"turnout/proxy/ipvs/genl"
)

// A server is a virtual server as it should be.
type server struct {
	genl.Server
	owner proxy.ServicePortName
	// pool are the endpoints that get new connections, sorted.
	pool []netip.AddrPort
	// serving are the endpoints that still serve the clients they have, sorted.
	serving []netip.AddrPort
	// address tells that the interface must have the address: it is not one of the node's.
	address bool
}

// renderer turns Services into virtual servers.
type renderer struct {
	scheduler string
	flags     uint32
	nodePorts []netip.Addr
}

func newRenderer(o *Options, n *proxy.Node) *renderer {
	r := &renderer{scheduler: o.Scheduler, nodePorts: n.NodePorts.Addrs}
	if r.scheduler == "mh" {
		// Without the port a client, or all behind one address, would always meet the same endpoint.
		r.flags = genl.SchedulerFlag2
	}
	return r
}

// render appends the virtual servers of a Service: one for each frontend, also without endpoints, and for a NodePort one for each of the node's addresses.
func (r *renderer) render(out []server, s *proxy.Service) []server {
	if s == nil {
		return out
	}
	for i := range s.Frontends {
		f := &s.Frontends[i]
		x := server{owner: s.Name, pool: poolAddrs(s, f), serving: s.Serving, Server: genl.Server{Scheduler: r.scheduler, Flags: r.flags, Persistence: s.Affinity}}
		x.Protocol = s.Name.Protocol
		if f.Kind != proxy.NodePort {
			x.At, x.address = netip.AddrPortFrom(f.Addr, f.Port), true
			out = append(out, x)
			continue
		}
		for _, a := range r.nodePorts {
			x.At = netip.AddrPortFrom(a, f.Port)
			out = append(out, x)
		}
	}
	return out
}

// keeps tells whether an endpoint that left the pool stays, without new connections, until those that it has end. What the end is can be told of TCP
// only; a flow of datagrams that goes on would be led to an endpoint that is gone, so there it is the Service that tells.
func (x *server) keeps(at netip.AddrPort) bool {
	if x.Protocol == proxy.TCP {
		return true
	}
	_, serving := slices.BinarySearchFunc(x.serving, at, netip.AddrPort.Compare)
	return serving
}

func poolAddrs(s *proxy.Service, f *proxy.Frontend) []netip.AddrPort {
	if !forwards(f) {
		return nil
	}
	pool := s.Pool(poolOf(f))
	out := make([]netip.AddrPort, len(pool))
	for i := range pool {
		out[i] = pool[i].Addr
	}
	return out
}
