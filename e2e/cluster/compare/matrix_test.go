package compare

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/proxy"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/objects"
)

// TestMatrix sends packets from everywhere to every kind of address, in both families and by every protocol, of Services with every
// combination of traffic policies and situations of their endpoints; in each mode that both have.
func TestMatrix(t *testing.T) {
	for _, mode := range usableModes(t) {
		name := string(mode.mode())
		t.Run(name, func(t *testing.T) {
			p := newPair(t, mode)
			p.knowZone(t)
			c := p.turnout.Lab.Cluster
			all := slices.Concat(policies(c), ranges(c), affinities(c), oddities(c))
			p.set(all...)
			list := slices.DeleteFunc(packets(c, all), func(p packet) bool {
				return superfluous(p) || name != "nftables" && p.Protocol != proxy.TCP // once is enough
			})
			answered, unanswered := p.compare(t, list)
			t.Logf("%d packets compared, %d answered, %d not", len(list), answered, unanswered)
			if min(answered, unanswered) < len(list)/20 {
				t.Errorf("%d packets were answered and %d not: that does not say much", answered, unanswered)
			}
		})
	}
}

// superfluous tells of packets that say nothing new: the way through the rules is the same for all protocols, and for several pods.
func superfluous(p packet) bool {
	first := p.Source == proxytest.Addressing().Host(p.From).Addr(p.family())
	return p.From == "pod-3" || p.From == "pod-5" || p.Protocol != proxy.TCP && (p.From != "pod-1" && p.From != "client" || !first)
}

// endpointAt is a host of the lab that serves, in some condition.
type endpointAt = objects.At

var (
	on, conditions = objects.On, objects.Conditions

	internalLocal, externalLocal, clientAffinity, sourceRanges = objects.InternalLocal, objects.ExternalLocal, objects.ClientIP, objects.SourceRanges
)

func forZone(zone string) func(*discovery.Endpoint) {
	return func(e *discovery.Endpoint) {
		e.Hints = &discovery.EndpointHints{ForZones: []discovery.ForZone{{Name: zone}}}
	}
}

func forNode(node string) func(*discovery.Endpoint) {
	return func(e *discovery.Endpoint) {
		e.Hints = &discovery.EndpointHints{ForNodes: []discovery.ForNode{{Name: node}}, ForZones: []discovery.ForZone{{Name: objects.Zones[1]}}}
	}
}

// situations are those of endpoints: which there are, where, and in what condition. pod-1 and pod-4 are clients too.
var situations = []struct {
	name      string
	endpoints []endpointAt
}{
	{"none", nil},
	{"here", []endpointAt{on("pod-2")}},
	{"elsewhere", []endpointAt{on("pod-5")}},
	{"both", []endpointAt{on("pod-2"), on("pod-5")}},
	{"many", []endpointAt{on("pod-1"), on("pod-2"), on("pod-3"), on("pod-5")}},
	{"hairpin", []endpointAt{on("pod-1")}},
	{"host", []endpointAt{on("n1"), on("pod-5")}},
	{"other-host", []endpointAt{on("n2")}},
	{"not-ready", []endpointAt{on("pod-2", conditions(false, false, false))}},
	{"one-not-ready", []endpointAt{on("pod-2", conditions(false, false, false)), on("pod-5")}},
	{"leaving-here", []endpointAt{on("pod-2", conditions(false, true, true)), on("pod-5")}},
	{"leaving-elsewhere", []endpointAt{on("pod-2"), on("pod-5", conditions(false, true, true))}},
	{"all-leaving", []endpointAt{on("pod-2", conditions(false, true, true)), on("pod-5", conditions(false, true, true))}},
	{"gone", []endpointAt{on("pod-2", conditions(false, false, true)), on("pod-5", conditions(false, false, true))}},
	{"zone-hints", []endpointAt{on("pod-2", forZone(objects.Zones[1])), on("pod-3", forZone(objects.Zones[0])), on("pod-5", forZone(objects.Zones[0]))}},
	{"node-hints", []endpointAt{on("pod-2", forNode("n1")), on("pod-5", forNode("n2"))}},
	{"hint-missing", []endpointAt{on("pod-2", forZone(objects.Zones[1])), on("pod-5")}},
	{"hints-elsewhere", []endpointAt{on("pod-2", forZone(objects.Zones[1])), on("pod-5", forZone(objects.Zones[1]))}},
}

// maxServices is how many Services have addresses of their own.
const maxServices = 110

// service makes the i-th Service, 0 < i < maxServices: dual-stack, of type LoadBalancer, with every kind of address and three ports.
func service(i int, name string, edits ...func(*v1.Service)) *v1.Service {
	s := &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	s.Spec.Type = v1.ServiceTypeLoadBalancer
	s.Spec.IPFamilies = []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}
	s.Spec.IPFamilyPolicy = new(v1.IPFamilyPolicyRequireDualStack)
	s.Spec.ClusterIPs = []string{fmt.Sprintf("10.96.1.%d", i), fmt.Sprintf("fd00:10:96::1%02x", i)}
	s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	s.Spec.ExternalIPs = []string{fmt.Sprintf("192.168.60.%d", maxServices+i), fmt.Sprintf("fd60::1%02x", i)}
	s.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: fmt.Sprintf("192.168.60.%d", i)}, {IP: fmt.Sprintf("fd60::%x", i)}}
	s.Spec.InternalTrafficPolicy = new(v1.ServiceInternalTrafficPolicyCluster)
	s.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyCluster
	for n, port := range []v1.ServicePort{{Protocol: v1.ProtocolTCP, Port: 80}, {Protocol: v1.ProtocolUDP, Port: 53}, {Protocol: v1.ProtocolSCTP, Port: 90}} {
		port.Name, port.NodePort = strings.ToLower(string(port.Protocol)), int32(30000+3*i+n)
		s.Spec.Ports = append(s.Spec.Ports, port)
	}
	for _, edit := range edits {
		edit(s)
	}
	if s.Spec.Type == v1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal {
		s.Spec.HealthCheckNodePort = int32(32000 + i) // one that the API server chose might be another Service's node port
	}
	return s
}

// with is a Service and its EndpointSlices, one for each family.
func with(c *proxytest.Cluster, s *v1.Service, endpoints ...endpointAt) []metav1.Object {
	target := func(i int) int32 { return int32(proxytest.EndpointPorts[i%2]) }
	return append([]metav1.Object{s}, objects.EndpointSlices(s, c.Host, target, endpoints...)...)
}

// policies are all combinations of internal and external policy with all situations, or with some. They take the numbers up to 72.
func policies(c *proxytest.Cluster, some ...string) (out []metav1.Object) {
	n := 0
	for _, situation := range situations {
		if len(some) > 0 && !slices.Contains(some, situation.name) {
			continue
		}
		for i, edits := range [][]func(*v1.Service){{}, {internalLocal}, {externalLocal}, {internalLocal, externalLocal}} {
			n++
			name := fmt.Sprintf("%s-%s", situation.name, []string{"cluster", "internal-local", "external-local", "local"}[i])
			out = append(out, with(c, service(n, name, edits...), situation.endpoints...)...)
		}
	}
	return out
}

// ranges are Services with source ranges. They take the numbers from 75.
func ranges(c *proxytest.Cluster) (out []metav1.Object) {
	some := []string{"192.168.50.1/32", "192.168.50.100/32", "10.244.1.2/32", "fd50::1/128", "fd50::100/128", "fd00:10:244:1::2/128"}
	pods := []string{"10.244.0.0/16", "fd00:10:244::/48"}
	here, elsewhere := on("pod-2"), on("pod-5")
	for _, s := range []struct {
		service   *v1.Service
		endpoints []endpointAt
	}{
		{service(75, "ranges-cluster", sourceRanges(some...)), []endpointAt{here, elsewhere}},
		{service(76, "ranges-local", sourceRanges(some...), externalLocal), []endpointAt{here, elsewhere}},
		{service(77, "ranges-elsewhere", sourceRanges(some...), externalLocal), []endpointAt{elsewhere}},
		{service(78, "ranges-empty", sourceRanges(some...)), nil},
		{service(79, "ranges-pods", sourceRanges(pods...), externalLocal), []endpointAt{here, elsewhere}},
		{service(80, "ranges-everybody", sourceRanges("203.0.113.0/24", "0.0.0.0/0", "::/0")), []endpointAt{here}},
		{service(81, "ranges-one-family", sourceRanges("203.0.113.0/24")), []endpointAt{here}},
		{service(82, "ranges-nobody", sourceRanges("203.0.113.0/24", "2001:db8::/64")), []endpointAt{here}},
		{service(83, "ranges-with-blanks", sourceRanges(" 192.168.50.100/32 ", " fd50::100/128")), []endpointAt{here}},
		{service(84, "ranges-overlap", sourceRanges("192.168.50.0/24", "192.168.50.100/32", "fd50::/64", "fd50::100/127")), []endpointAt{here}},
	} {
		out = append(out, with(c, s.service, s.endpoints...)...)
	}
	return out
}

// affinities are Services with session affinity. They take the numbers from 85.
func affinities(c *proxytest.Cluster) (out []metav1.Object) {
	n := 85
	for _, edits := range [][]func(*v1.Service){{}, {externalLocal}, {internalLocal, externalLocal}} {
		for _, endpoints := range [][]endpointAt{{on("pod-1")}, {on("pod-1"), on("pod-2"), on("pod-5")}, {on("pod-2", conditions(false, true, true)), on("pod-5")}} {
			out = append(out, with(c, service(n, fmt.Sprintf("affinity-%d", n), append(edits, clientAffinity)...), endpoints...)...)
			n++
		}
	}
	return out
}

// oddities are Services that are special in some way. They take the numbers from 95.
func oddities(c *proxytest.Cluster) (out []metav1.Object) {
	both := []endpointAt{on("pod-2"), on("pod-5")}
	clusterIPOnly := func(s *v1.Service) {
		s.Spec.Type, s.Spec.ExternalIPs, s.Spec.ExternalTrafficPolicy = v1.ServiceTypeClusterIP, nil, ""
		s.Status = v1.ServiceStatus{}
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].NodePort = 0
		}
	}
	oneFamily := func(i int) func(*v1.Service) {
		return func(s *v1.Service) {
			s.Spec.IPFamilies, s.Spec.ClusterIPs = s.Spec.IPFamilies[i:i+1], s.Spec.ClusterIPs[i:i+1]
			s.Spec.ClusterIP, s.Spec.IPFamilyPolicy = s.Spec.ClusterIPs[0], new(v1.IPFamilyPolicySingleStack)
		}
	}
	for _, s := range []*v1.Service{
		service(95, "cluster-ip-only", clusterIPOnly),
		service(96, "cluster-ip-only-local", clusterIPOnly, internalLocal),
		service(97, "ipv4-only", oneFamily(0)),
		service(98, "ipv6-only", oneFamily(1)),
		service(99, "another-proxys", func(s *v1.Service) {
			s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "another"}
		}),
		service(100, "address-of-a-proxy", func(s *v1.Service) {
			for i := range s.Status.LoadBalancer.Ingress {
				s.Status.LoadBalancer.Ingress[i].IPMode = new(v1.LoadBalancerIPModeProxy)
			}
		}),
		service(101, "node-port-type", func(s *v1.Service) { s.Spec.Type, s.Status = v1.ServiceTypeNodePort, v1.ServiceStatus{} }),
		service(102, "node-port-local", externalLocal, func(s *v1.Service) { s.Spec.Type, s.Status = v1.ServiceTypeNodePort, v1.ServiceStatus{} }),
		service(103, "no-node-ports", func(s *v1.Service) {
			s.Spec.AllocateLoadBalancerNodePorts = new(false)
			for i := range s.Spec.Ports {
				s.Spec.Ports[i].NodePort = 0
			}
		}),
		service(104, "external-ip-of-the-node", func(s *v1.Service) { s.Spec.ExternalIPs = []string{"192.168.51.1", "fd51::1"} }),
		service(105, "load-balancer-ip-of-the-node", externalLocal, func(s *v1.Service) {
			s.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: "10.244.1.1"}, {IP: "fd00:10:244:1::1"}}
			s.Spec.LoadBalancerSourceRanges = []string{"10.244.1.2/32", "192.168.50.1/32", "fd00:10:244:1::2/128", "fd50::1/128"}
			// The other Service of the node's addresses is at port 80, too.
			for i := range s.Spec.Ports {
				s.Spec.Ports[i].Port += 1000
			}
		}),
		service(106, "same-port-number", func(s *v1.Service) {
			for i := range s.Spec.Ports {
				s.Spec.Ports[i].Port = 80
			}
		}),
	} {
		out = append(out, with(c, s, both...)...)
	}
	return out
}
