package objects

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// MaxServices is how many Services have an address each.
const MaxServices = 200

// Random returns n Services, of every type and policy, and their EndpointSlices. The same random numbers give the same
// objects. It panics if n is above MaxServices.
func Random(rng *rand.Rand, c *proxytest.Cluster, n int) ([]*v1.Service, []*discovery.EndpointSlice) {
	if n > MaxServices {
		panic(fmt.Sprintf("objects: %d services, at most %d have addresses", n, MaxServices))
	}
	var services []*v1.Service
	var slices []*discovery.EndpointSlice
	for i := range n {
		s, e := Service(rng, c, i)
		services, slices = append(services, s), append(slices, e...)
	}
	return services, slices
}

// Service returns the i-th Service, 0 <= i < MaxServices, and its EndpointSlices: drawing it again gives another version of
// the same Service, with the same name, addresses and node ports as far as it has any.
func Service(rng *rand.Rand, c *proxytest.Cluster, i int) (*v1.Service, []*discovery.EndpointSlice) {
	g := &generator{Rand: rng, cluster: c, index: i}
	s := g.service()
	return s, g.slices(s)
}

type generator struct {
	*rand.Rand
	cluster *proxytest.Cluster
	index   int
}

// oneIn is true once in n times.
func (g *generator) oneIn(n int) bool { return g.IntN(n) == 0 }

func pick[E any](g *generator, list ...E) E { return list[g.IntN(len(list))] }

// address returns the Service's own address in the first of some prefixes that is of the family.
func (g *generator) address(f proxy.Family, in []netip.Prefix) string {
	a := proxytest.Of(f, in)[0].Addr().AsSlice()
	a[len(a)-1] += byte(g.index + 1)
	own, _ := netip.AddrFromSlice(a)
	return own.String()
}

func (g *generator) service() *v1.Service {
	s := &v1.Service{ObjectMeta: metav1.ObjectMeta{
		Namespace:         fmt.Sprintf("ns-%d", g.index%3),
		Name:              fmt.Sprintf("service-%d", g.index),
		CreationTimestamp: metav1.Unix(1700000000+int64(g.index), 0),
	}}
	s.Spec.Type = pick(g, v1.ServiceTypeClusterIP, v1.ServiceTypeClusterIP, v1.ServiceTypeNodePort, v1.ServiceTypeLoadBalancer)
	g.setFamilies(s)
	g.setPorts(s)
	g.setPolicies(s)
	if g.oneIn(4) {
		s.Spec.SessionAffinity = v1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &v1.SessionAffinityConfig{ClientIP: &v1.ClientIPConfig{
			TimeoutSeconds: pick(g, nil, new(int32(60)), new(int32(10800)))}}
	}
	if s.Spec.Type == v1.ServiceTypeLoadBalancer {
		g.setLoadBalancer(s)
	}
	if g.oneIn(12) {
		g.makeIgnored(s)
	}
	return s
}

// setFamilies gives the Service a ClusterIP of each of its families.
func (g *generator) setFamilies(s *v1.Service) {
	families := pick(g, []proxy.Family{proxy.IPv4}, []proxy.Family{proxy.IPv6}, []proxy.Family{proxy.IPv4, proxy.IPv6},
		[]proxy.Family{proxy.IPv6, proxy.IPv4})
	for _, f := range families {
		s.Spec.IPFamilies = append(s.Spec.IPFamilies, v1.IPFamily(f.String()))
		s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, g.address(f, g.cluster.ServiceCIDRs))
		if g.oneIn(8) { // above the addresses of load balancers
			a := netip.MustParseAddr(g.address(f, g.cluster.LoadBalancerCIDRs)).AsSlice()
			a[len(a)-1] = byte(MaxServices + 1 + g.index%40)
			ip, _ := netip.AddrFromSlice(a)
			s.Spec.ExternalIPs = append(s.Spec.ExternalIPs, ip.String())
		}
	}
	s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	policy := v1.IPFamilyPolicySingleStack
	if len(families) == 2 {
		policy = v1.IPFamilyPolicyRequireDualStack
	}
	s.Spec.IPFamilyPolicy = &policy
}

// setPorts gives the Service up to three ports, two of which may have the same number but not the same protocol.
func (g *generator) setPorts(s *v1.Service) {
	protocols := []v1.Protocol{v1.ProtocolTCP, v1.ProtocolUDP, v1.ProtocolSCTP}
	g.Shuffle(2, func(i, j int) { protocols[i], protocols[j] = protocols[j], protocols[i] })
	n := 1 + g.IntN(3)
	for i := range n {
		p := v1.ServicePort{Protocol: protocols[i], Port: pick[int32](g, 53, 80, 443)}
		if n > 1 {
			p.Name = []string{"one", "two", "three"}[i]
		}
		p.TargetPort = intstr.FromInt32(int32(pick(g, proxytest.EndpointPorts...)))
		if s.Spec.Type != v1.ServiceTypeClusterIP {
			p.NodePort = int32(30000 + 3*g.index + i)
		}
		s.Spec.Ports = append(s.Spec.Ports, p)
	}
}

func (g *generator) setPolicies(s *v1.Service) {
	internal := pick(g, v1.ServiceInternalTrafficPolicyCluster, v1.ServiceInternalTrafficPolicyCluster, v1.ServiceInternalTrafficPolicyLocal)
	s.Spec.InternalTrafficPolicy = &internal
	if s.Spec.Type != v1.ServiceTypeClusterIP || len(s.Spec.ExternalIPs) > 0 {
		s.Spec.ExternalTrafficPolicy = pick(g, v1.ServiceExternalTrafficPolicyCluster, v1.ServiceExternalTrafficPolicyLocal)
	}
	if s.Spec.Type == v1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal {
		s.Spec.HealthCheckNodePort = int32(31000 + g.index)
	}
}

// setLoadBalancer adds what the cloud reports, and source ranges.
func (g *generator) setLoadBalancer(s *v1.Service) {
	if g.oneIn(4) {
		s.Spec.AllocateLoadBalancerNodePorts = new(false)
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].NodePort = 0
		}
	}
	for _, family := range s.Spec.IPFamilies {
		if g.oneIn(6) { // not ready yet
			continue
		}
		f := proxy.IPv4
		if family == v1.IPv6Protocol {
			f = proxy.IPv6
		}
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, v1.LoadBalancerIngress{
			IP:     g.address(f, g.cluster.LoadBalancerCIDRs),
			IPMode: pick(g, nil, new(v1.LoadBalancerIPModeVIP), new(v1.LoadBalancerIPModeVIP), new(v1.LoadBalancerIPModeProxy)),
		})
	}
	if g.oneIn(8) {
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, v1.LoadBalancerIngress{Hostname: "lb.example.com"})
	}
	if g.oneIn(2) {
		s.Spec.LoadBalancerSourceRanges = g.sourceRanges()
	}
}

// sourceRanges returns some ranges that hold some of the hosts: both families, one, or nobody.
func (g *generator) sourceRanges() []string {
	ranges := []string{"192.0.2.0/24"}
	for _, h := range g.cluster.Hosts {
		for _, a := range h.Addrs {
			if g.oneIn(6) {
				ranges = append(ranges, netip.PrefixFrom(a, a.BitLen()).String())
			}
		}
	}
	for _, p := range g.cluster.PodCIDRs {
		if g.oneIn(3) {
			ranges = append(ranges, " "+p.String()) // white space is accepted
		}
	}
	if g.oneIn(6) {
		ranges = append(ranges, pick(g, "0.0.0.0/0", "::/0"))
	}
	g.Shuffle(len(ranges), func(i, j int) { ranges[i], ranges[j] = ranges[j], ranges[i] })
	return ranges
}

// makeIgnored makes it a Service that no proxy serves, or not this one.
func (g *generator) makeIgnored(s *v1.Service) {
	switch g.IntN(3) {
	case 0:
		s.Spec.Type, s.Spec.ClusterIP, s.Spec.ClusterIPs = v1.ServiceTypeClusterIP, v1.ClusterIPNone, []string{v1.ClusterIPNone}
		s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort, s.Spec.ExternalIPs = "", 0, nil
		s.Spec.LoadBalancerSourceRanges, s.Spec.AllocateLoadBalancerNodePorts, s.Status.LoadBalancer.Ingress = nil, nil, nil
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].NodePort = 0
		}
	case 1:
		s.Spec = v1.ServiceSpec{Type: v1.ServiceTypeExternalName, ExternalName: "www.example.com"}
		s.Status = v1.ServiceStatus{}
	case 2:
		s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "another"}
	}
}
