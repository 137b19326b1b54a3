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
	// address tells that the interface must have the address, unless another one of the node has it.
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
	for i := range s.Frontends {
		f := &s.Frontends[i]
		for _, a := range r.addrs(f) {
			out = append(out, r.server(s, f, a))
		}
	}
	return out
}

// all are the virtual servers of a State, sorted. Where one is asked for by its address and by a NodePort, the address decides, as in the gate's table.
func (r *renderer) all(s *proxy.State) (out []server) {
	for _, service := range s.Services.All() {
		out = r.render(out, service)
	}
	slices.SortFunc(out, func(x, y server) int {
		if c := x.Key.Compare(y.Key); c != 0 || x.address == y.address {
			return c
		}
		if x.address {
			return -1
		}
		return 1
	})
	return slices.CompactFunc(out, func(x, y server) bool { return x.Key == y.Key })
}

// addrs are the addresses of a frontend.
func (r *renderer) addrs(f *proxy.Frontend) []netip.Addr {
	if f.Kind == proxy.NodePort {
		return r.nodePorts
	}
	return []netip.Addr{f.Addr}
}

// server is the virtual server of a Service's frontend at one of its addresses.
func (r *renderer) server(s *proxy.Service, f *proxy.Frontend, a netip.Addr) server {
	return server{
		Server: genl.Server{Key: genl.Key{Protocol: s.Name.Protocol, At: netip.AddrPortFrom(a, f.Port)}, Scheduler: r.scheduler, Flags: r.flags, Persistence: s.Affinity},
		owner:  s.Name, pool: poolAddrs(s, f), serving: s.Serving, address: f.Kind != proxy.NodePort,
	}
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
