package e2e

import (
	"fmt"
	"net/netip"
	"testing"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/proxy"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/lab"
	"turnout/proxy/proxytest/objects"
)

// endpointPort is where pods serve, by every protocol.
const endpointPort = 8080

// The ports of every Service that newService makes.
var ports = map[proxy.Protocol]int32{proxy.TCP: 80, proxy.UDP: 53, proxy.SCTP: 90}

// What changes a Service in the making.
type part = objects.Part

var internalLocal, externalLocal, sourceRanges = objects.InternalLocal, objects.ExternalLocal, objects.SourceRanges

// newService makes the i-th Service, 0 < i < 50: dual-stack, of type LoadBalancer, with a ClusterIP, an external IP, a load-balancer
// IP and node ports of its own.
func newService(i int, name string, parts ...part) *v1.Service {
	s := &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, CreationTimestamp: metav1.Unix(1700000000+int64(i), 0)}}
	s.Spec.Type = v1.ServiceTypeLoadBalancer
	s.Spec.IPFamilies = []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}
	s.Spec.IPFamilyPolicy = new(v1.IPFamilyPolicyRequireDualStack)
	s.Spec.ClusterIPs = []string{fmt.Sprintf("10.96.0.%d", i), fmt.Sprintf("fd00:10:96::%x", i)}
	s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	s.Spec.ExternalIPs = []string{fmt.Sprintf("192.168.60.%d", 100+i), fmt.Sprintf("fd60::%x", 256+i)}
	s.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: fmt.Sprintf("192.168.60.%d", i)}, {IP: fmt.Sprintf("fd60::%x", i)}}
	s.Spec.InternalTrafficPolicy = new(v1.ServiceInternalTrafficPolicyCluster)
	s.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyCluster
	for n, p := range []proxy.Protocol{proxy.TCP, proxy.UDP, proxy.SCTP} {
		s.Spec.Ports = append(s.Spec.Ports, v1.ServicePort{Name: fmt.Sprintf("port-%d", n), Protocol: v1.Protocol(p.String()), Port: ports[p], NodePort: int32(30000 + 3*i + n)})
	}
	for _, part := range parts {
		part(s)
	}
	return s
}

func sticky(seconds int32) part {
	return func(s *v1.Service) {
		s.Spec.SessionAffinity = v1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &v1.SessionAffinityConfig{ClientIP: &v1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
}

func healthCheck(port int32) part {
	return func(s *v1.Service) { s.Spec.HealthCheckNodePort = port }
}

// only leaves a Service one family. Its other addresses stay where users and clouds may have put them all the same.
func only(f proxy.Family) part {
	return func(s *v1.Service) {
		for i, family := range s.Spec.IPFamilies {
			if string(family) == f.String() {
				s.Spec.IPFamilies, s.Spec.ClusterIPs = s.Spec.IPFamilies[i:i+1], s.Spec.ClusterIPs[i:i+1]
				break
			}
		}
		s.Spec.ClusterIP, s.Spec.IPFamilyPolicy = s.Spec.ClusterIPs[0], new(v1.IPFamilyPolicySingleStack)
	}
}

// clusterIP makes it a Service of type ClusterIP, without addresses of other kinds.
func clusterIP(s *v1.Service) {
	s.Spec.Type, s.Spec.ExternalIPs, s.Spec.ExternalTrafficPolicy = v1.ServiceTypeClusterIP, nil, ""
	s.Status.LoadBalancer.Ingress = nil
	for i := range s.Spec.Ports {
		s.Spec.Ports[i].NodePort = 0
	}
}

// pod is a pod, or a node whose pod uses the host's network, as an endpoint that is ready unless an edit says otherwise.
type pod = objects.At

var on = objects.On

var notReady, terminating = objects.Conditions(false, false, false), objects.Conditions(false, true, true)

func forZone(zone string) objects.Edit {
	return func(e *discovery.Endpoint) {
		if e.Hints == nil {
			e.Hints = &discovery.EndpointHints{}
		}
		e.Hints.ForZones = append(e.Hints.ForZones, discovery.ForZone{Name: zone})
	}
}

func forNode(node string) objects.Edit {
	return func(e *discovery.Endpoint) {
		if e.Hints == nil {
			e.Hints = &discovery.EndpointHints{}
		}
		e.Hints.ForNodes = append(e.Hints.ForNodes, discovery.ForNode{Name: node})
	}
}

// endpoints are the two EndpointSlices of a Service, one of each family, with some pods. Without any they are empty.
func (c *cluster) endpoints(s *v1.Service, pods ...pod) []metav1.Object {
	host := func(name string) *proxytest.Host { return &c.Host(name).Host }
	return objects.EndpointSlices(s, host, func(int) int32 { return endpointPort }, pods...)
}

// with is a Service and its EndpointSlices.
func (c *cluster) with(s *v1.Service, pods ...pod) []metav1.Object {
	return append(c.endpoints(s, pods...), s)
}

// oneService is a cluster with the Service web, whose one endpoint is on pod-2 and serves.
func oneService(t *testing.T) (*cluster, *v1.Service) {
	t.Helper()
	c, web := newCluster(t), newService(1, "web")
	c.serve("pod-2")
	c.set(c.with(web, on("pod-2"))...)
	return c, web
}

// serve has hosts answer on endpointPort; it is what every endpoint in the manifests does.
func (c *cluster) serve(names ...string) {
	c.t.Helper()
	for _, name := range names {
		for p := range ports {
			if _, err := c.Host(name).Serve(p, endpointPort); err != nil {
				c.t.Fatal(err)
			}
		}
	}
}

// address is where a Service is reached: at its address of a kind and family, or at the node's for NodePorts.
func (c *cluster) address(s *v1.Service, k proxy.Kind, f proxy.Family, p proxy.Protocol) netip.AddrPort {
	to := objects.Address(s, k, f, p, c.Node().Addr(f))
	if !to.IsValid() {
		panic(fmt.Sprintf("%s has no %s %s", s.Name, f, k))
	}
	return to
}

// client is who connects: a host by its first address of the family, or by another one.
type client struct {
	*lab.Host
	source int  // index among the host's addresses of the family
	any    bool // the kernel chooses the source address
}

func (c client) addr(f proxy.Family) netip.Addr {
	n := 0
	for _, a := range c.Addrs {
		if proxy.FamilyOf(a) == f {
			if n == c.source {
				return a
			}
			n++
		}
	}
	panic("no such address of " + c.Name)
}
