package proxytest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"turnout/proxy"
)

// EndpointPorts are the ports of endpoints in random States and objects: whoever sends packets serves them on every host.
var EndpointPorts = []uint16{8080, 8081}

// RandomState returns a State with some Services on the addresses of Addressing, which Check accepts. The same random numbers
// give the same State.
func RandomState(rng *rand.Rand, f proxy.Family, services int) *proxy.State {
	s := &proxy.State{Family: f, Node: randomNode(rng, f)}
	g := newStateGenerator(rng, s)
	for range services {
		g.add(s)
		g.healthCheck(s)
	}
	return s
}

// Mutate returns a State that differs from another by some changes: Services are added, removed, replaced by others of the
// same name, or have other endpoints; now and then the facts of the node change. Services that did not change keep their
// pointers. A frontend may leave one Service and be another's in the same step.
func Mutate(rng *rand.Rand, s *proxy.State, changes int) *proxy.State {
	next := *s
	g := newStateGenerator(rng, s)
	for range changes {
		g.change(&next)
	}
	return &next
}

func newStateGenerator(rng *rand.Rand, s *proxy.State) *stateGenerator {
	g := &stateGenerator{rng: rng, family: s.Family, cluster: Addressing(), taken: map[proxy.FrontendKey]bool{}}
	for _, service := range s.Services.All() {
		g.names = append(g.names, service.Name)
		for i := range service.Frontends {
			g.taken[service.Key(&service.Frontends[i])] = true
		}
	}
	slices.SortFunc(g.names, proxy.ServicePortName.Compare)
	return g
}

type stateGenerator struct {
	rng     *rand.Rand
	family  proxy.Family
	cluster *Cluster
	taken   map[proxy.FrontendKey]bool
	names   []proxy.ServicePortName // of all Services, sorted at start
}

// change makes one change; s is a private copy.
func (g *stateGenerator) change(s *proxy.State) {
	dice := g.rng.IntN(20)
	if len(g.names) == 0 || dice < 4 {
		g.add(s)
		return
	}
	i := g.rng.IntN(len(g.names))
	old, _ := s.Services.Get(g.names[i])
	switch {
	case dice < 11:
		replacement := *old
		g.setEndpoints(&replacement, g.policies())
		finish(&replacement)
		s.Services = s.Services.Set(old.Name, &replacement)
	case dice < 14:
		g.release(old)
		s.Services = s.Services.Set(old.Name, g.service(old.Name))
	case dice < 19:
		g.release(old)
		s.Services = s.Services.Delete(old.Name)
		g.names = slices.Delete(g.names, i, i+1)
		if g.rng.IntN(4) == 0 {
			g.add(s)
		}
	default:
		s.Node = randomNode(g.rng, g.family)
	}
	g.healthCheck(s)
}

func (g *stateGenerator) add(s *proxy.State) {
	var name proxy.ServicePortName
	for exists := true; exists; _, exists = s.Services.Get(name) {
		name = g.name()
	}
	g.names = append(g.names, name)
	s.Services = s.Services.Set(name, g.service(name))
}

func (g *stateGenerator) name() proxy.ServicePortName {
	protocols := []proxy.Protocol{proxy.TCP, proxy.TCP, proxy.TCP, proxy.UDP, proxy.SCTP}
	n := proxy.ServicePortName{Port: []string{"", "http", "dns"}[g.rng.IntN(3)], Protocol: pick(g.rng, protocols)}
	n.Namespace, n.Name = fmt.Sprintf("ns-%d", g.rng.IntN(3)), fmt.Sprintf("service-%d", g.rng.IntN(1000))
	return n
}

// healthCheck sets or removes the health check of some Service.
func (g *stateGenerator) healthCheck(s *proxy.State) {
	if len(g.names) == 0 {
		return
	}
	name := pick(g.rng, g.names).ServiceName
	if g.rng.IntN(3) == 0 {
		s.HealthChecks = s.HealthChecks.Delete(name)
		return
	}
	s.HealthChecks = s.HealthChecks.Set(name, proxy.HealthCheck{Port: uint16(32000 + g.rng.IntN(700)), LocalEndpoints: g.rng.IntN(3)})
}

func (g *stateGenerator) service(name proxy.ServicePortName) *proxy.Service {
	s := &proxy.Service{Name: name, Affinity: pick(g.rng, []time.Duration{0, 0, 0, time.Minute, 3 * time.Hour})}
	p := g.policies()
	port := pick(g.rng, []uint16{80, 443, 53})
	g.frontend(s, proxy.ClusterIP, Of(g.family, g.cluster.ServiceCIDRs)[0], port)
	if g.rng.IntN(2) == 0 {
		g.frontend(s, proxy.NodePort, netip.Prefix{}, 0)
	}
	for range g.rng.IntN(3) {
		kind := pick(g.rng, []proxy.Kind{proxy.ExternalIP, proxy.LoadBalancerIP, proxy.LoadBalancerIP})
		g.frontend(s, kind, Of(g.family, g.cluster.LoadBalancerCIDRs)[0], port)
	}
	g.setEndpoints(s, p)
	finish(s)
	return s
}

// frontend adds a Frontend on an address that nobody has, unless luck does not find one.
func (g *stateGenerator) frontend(s *proxy.Service, kind proxy.Kind, from netip.Prefix, port uint16) {
	f := proxy.Frontend{Kind: kind, Port: port}
	for range 20 {
		if kind == proxy.NodePort {
			f.Port = uint16(30000 + g.rng.IntN(2000))
		} else {
			f.Addr = nth(from.Addr(), 1+g.rng.IntN(250))
		}
		if !g.taken[s.Key(&f)] {
			break
		}
	}
	if g.taken[s.Key(&f)] {
		return
	}
	g.taken[s.Key(&f)] = true
	if kind == proxy.LoadBalancerIP && g.rng.IntN(2) == 0 {
		f.AllowedSources = g.allowed()
	}
	s.Frontends = append(s.Frontends, f)
}

func (g *stateGenerator) release(s *proxy.Service) {
	for i := range s.Frontends {
		delete(g.taken, s.Key(&s.Frontends[i]))
	}
}

// allowed returns some of the prefixes that hold the hosts; perhaps none, which lets nobody in.
func (g *stateGenerator) allowed() []netip.Prefix {
	client := g.cluster.Host("client")
	all := Of(g.family, g.cluster.PodCIDRs)
	for _, a := range AddrsOf(g.family, client.Addrs) {
		all = append(all, netip.PrefixFrom(a, a.BitLen()))
	}
	all = append(all, netip.PrefixFrom(g.cluster.Hosts[0].Addr(g.family), g.family.Bits()))
	out := slices.DeleteFunc(all, func(netip.Prefix) bool { return g.rng.IntN(2) == 0 })
	slices.SortFunc(out, comparePrefixes)
	return out
}

// policies are the traffic policies of a Service.
type policies struct{ internalLocal, externalLocal, masqueradeAll bool }

func (g *stateGenerator) policies() policies {
	return policies{g.rng.IntN(4) == 0, g.rng.IntN(2) == 0, g.rng.IntN(6) == 0}
}

// setEndpoints draws the endpoints, and the actions that follow from them. The frontends are copied, as the Service may be a
// copy of a published one.
func (g *stateGenerator) setEndpoints(s *proxy.Service, p policies) {
	s.Serving, s.Cluster, s.Local = nil, nil, nil
	likely := g.rng.IntN(5) // from none to most
	port := pick(g.rng, EndpointPorts)
	for _, h := range g.cluster.Hosts {
		if h.Node == "" || g.rng.IntN(5) >= likely || !h.Pod && g.rng.IntN(2) == 0 {
			continue
		}
		e := proxy.Endpoint{Addr: netip.AddrPortFrom(h.Addr(g.family), port), Local: h.Node == g.cluster.Node}
		s.Serving = append(s.Serving, e.Addr)
		if g.rng.IntN(5) > 0 {
			s.Cluster = append(s.Cluster, e)
		}
		if e.Local && g.rng.IntN(5) > 0 {
			s.Local = append(s.Local, e)
		}
	}
	s.NoLocalInternal = p.internalLocal && len(s.Local) == 0 && len(s.Cluster) > 0
	s.NoLocalExternal = p.externalLocal && len(s.Local) == 0 && len(s.Cluster) > 0
	s.Frontends = slices.Clone(s.Frontends)
	for i := range s.Frontends {
		if f := &s.Frontends[i]; f.Kind == proxy.ClusterIP {
			f.Actions = p.internal(len(s.Cluster) > 0, len(s.Local) > 0)
		} else {
			f.Actions = p.external(len(s.Cluster) > 0, len(s.Local) > 0)
		}
	}
}

func (p policies) internal(cluster, local bool) [3]proxy.Action {
	switch {
	case !cluster:
		return RejectAll
	case p.internalLocal && !local:
		return DropAll
	case p.internalLocal:
		return InternalLocal
	case p.masqueradeAll:
		return External
	}
	return Internal
}

func (p policies) external(cluster, local bool) [3]proxy.Action {
	switch {
	case !cluster:
		return RejectAll
	case p.externalLocal && !local:
		return ExternalElsewhere
	case p.externalLocal:
		return ExternalLocal
	}
	return External
}

// randomNode returns facts of the node: mostly the usual ones.
func randomNode(rng *rand.Rand, f proxy.Family) *proxy.Node {
	c := Addressing()
	n := NodeOf(f)
	if rng.IntN(3) == 0 {
		first := c.Hosts[0].Addr(f)
		n.NodePorts = proxy.NodePorts{Addrs: []netip.Addr{first}}
	}
	switch rng.IntN(5) {
	case 0:
		n.LocalPods = proxy.LocalPods{InterfacePrefix: "veth-"}
	case 1:
		n.LocalPods = proxy.LocalPods{Interface: "veth-pod-1"}
	case 2:
		n.LocalPods = proxy.LocalPods{Prefixes: Of(f, c.PodCIDRs)}
	}
	if rng.IntN(5) == 0 {
		n.LocalPods = proxy.LocalPods{}
	}
	if rng.IntN(4) == 0 {
		n.ServiceCIDRs = nil
	}
	if rng.IntN(5) == 0 {
		n.MasqueradeMark = 1 << rng.IntN(32)
	}
	return n
}

func pick[E any](rng *rand.Rand, list []E) E { return list[rng.IntN(len(list))] }

// nth returns the n-th address after a, n < 65536.
func nth(a netip.Addr, n int) netip.Addr {
	b := a.As16()
	sum := int(b[14])<<8 + int(b[15]) + n
	b[14], b[15] = byte(sum>>8), byte(sum)
	if a.Is4() {
		return netip.AddrFrom16(b).Unmap()
	}
	return netip.AddrFrom16(b)
}
