package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// A badObject is a Service, with its EndpointSlices, that has something wrong with it.
type badObject struct {
	name string
	// service and endpoints spoil what is made well.
	service   part
	endpoints func(*discovery.EndpointSlice)
	// quiet tells that nobody need be told: what is odd is not wrong.
	quiet bool
}

func badObjects() []badObject {
	long := strings.Repeat("long-name-", 24) + "12345678" // and its EndpointSlices have names of 253 characters
	return []badObject{
		{name: "cluster-ip", service: func(s *v1.Service) {
			s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.96.0.300", []string{"10.96.0.300", "fd00::x"}
		}},
		{name: "external-ip", service: func(s *v1.Service) { s.Spec.ExternalIPs = []string{"", "192.168.60.1/24", "host.example.com"} }},
		{name: "leading-zeros", service: func(s *v1.Service) { s.Spec.ExternalIPs = []string{"192.168.060.001"} }},
		{name: "loopback", service: func(s *v1.Service) { s.Spec.ExternalIPs = []string{"127.0.0.1", "::1", "0.0.0.0", "ff02::1"} }},
		{name: "load-balancer-ip", service: func(s *v1.Service) { s.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: "none"}} }},
		{name: "source-ranges", service: sourceRanges("anywhere", "10.0.0.0/99")},
		{name: "port-zero", service: func(s *v1.Service) { s.Spec.Ports[0].Port = 0 }},
		{name: "port-too-high", service: func(s *v1.Service) { s.Spec.Ports[0].Port, s.Spec.Ports[1].NodePort = 70000, 70001 }},
		{name: "port-negative", service: func(s *v1.Service) { s.Spec.Ports[0].Port = -1 }},
		{name: "port-twice", service: func(s *v1.Service) { s.Spec.Ports = append(s.Spec.Ports, s.Spec.Ports[0]) }},
		{name: "port-twice-by-other-name", service: func(s *v1.Service) {
			p := s.Spec.Ports[0]
			p.Name = "again"
			s.Spec.Ports = append(s.Spec.Ports, p)
		}},
		{name: "protocol", service: func(s *v1.Service) { s.Spec.Ports[0].Protocol = "QUIC" }},
		{name: "affinity-timeout", service: sticky(-5)},
		{name: "affinity-timeout-huge", service: sticky(1<<31 - 1)},
		{name: "affinity-unknown", service: func(s *v1.Service) { s.Spec.SessionAffinity = "Cookie" }},
		{name: "stolen-cluster-ip", service: func(s *v1.Service) {
			s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.96.0.1", []string{"10.96.0.1", "fd00:10:96::1"}
		}},
		{name: "stolen-external-ip", service: func(s *v1.Service) { s.Spec.ExternalIPs = []string{"10.96.0.1", "192.168.60.1", "fd60::1"} }},
		{name: "stolen-node-port", service: func(s *v1.Service) { s.Spec.Ports[0].NodePort = 30003 }},
		{name: "node-ip", service: func(s *v1.Service) { s.Spec.ExternalIPs = []string{"192.168.50.1"} }, quiet: true},
		{name: long, service: func(s *v1.Service) {
			for i := range s.Spec.Ports {
				s.Spec.Ports[i].Name = fmt.Sprintf("%d-%s", i, long)
			}
		}, quiet: true},
		{name: "no-ports", service: func(s *v1.Service) { s.Spec.Ports = nil }, quiet: true},
		{name: "endpoint-address", endpoints: func(e *discovery.EndpointSlice) { e.Endpoints[0].Addresses = []string{"pod-1"} }},
		{name: "endpoint-without-address", endpoints: func(e *discovery.EndpointSlice) { e.Endpoints[0].Addresses = nil }},
		{name: "endpoint-of-other-family", endpoints: func(e *discovery.EndpointSlice) {
			e.Endpoints[0].Addresses = []string{map[discovery.AddressType]string{discovery.AddressTypeIPv4: "fd00::7", discovery.AddressTypeIPv6: "10.244.1.7"}[e.AddressType]}
		}},
		{name: "endpoint-loopback", endpoints: func(e *discovery.EndpointSlice) {
			e.Endpoints[0].Addresses = []string{map[discovery.AddressType]string{discovery.AddressTypeIPv4: "127.0.0.1", discovery.AddressTypeIPv6: "::1"}[e.AddressType]}
		}},
		{name: "endpoint-port", endpoints: func(e *discovery.EndpointSlice) { e.Ports[0].Port = new(int32(70000)) }},
		{name: "endpoint-port-missing", endpoints: func(e *discovery.EndpointSlice) { e.Ports[0].Port = nil }, quiet: true},
		{name: "address-type", endpoints: func(e *discovery.EndpointSlice) { e.AddressType = "IPX" }},
	}
}

// objects makes the object, as the i-th Service.
func (b *badObject) objects(c *cluster, i int) []metav1.Object {
	s := newService(i, b.name)
	list := c.endpoints(s, on("pod-1"), on("pod-2"))
	if b.endpoints != nil {
		for _, o := range list {
			b.endpoints(o.(*discovery.EndpointSlice))
		}
	}
	if b.service != nil {
		b.service(s)
	}
	return append(list, s)
}

// TestBadObjects adds objects with all that can be wrong with them. The proxy must say so, and serve all others: those that were
// there before, and those that come after.
func TestBadObjects(t *testing.T) {
	c := newCluster(t)
	c.serve(c.allPods()...)
	c.set(c.stock("pod-1")...)
	p := c.start()
	s := c.open()
	check := func(when string) {
		t.Helper()
		p.follow()
		for _, f := range proxy.Families {
			for _, k := range []proxy.Kind{proxy.ClusterIP, proxy.NodePort, proxy.LoadBalancerIP, proxy.ExternalIP} {
				to := c.address(newService(1, "web"), k, f, proxy.TCP)
				if o := c.Client().Dial(proxy.TCP, to, lab.DialOptions{Timeout: longTimeout}); o.Server != "pod-1" && o.Server != "pod-2" {
					t.Errorf("%s: web at %s: %s", when, to, o)
				}
			}
		}
		m, err := p.metrics()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range proxy.Families {
			if n := m[fmt.Sprintf("kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=%q}", f)]; n != 0 {
				t.Errorf("%s: %v syncs of %s failed", when, n, f)
			}
		}
	}
	i := 10
	for some := range slices.Chunk(badObjects(), 7) {
		from, names := len(p.log.String()), []string{}
		var set []metav1.Object
		for _, b := range some {
			names, set = append(names, b.name), append(set, b.objects(c, i)...)
			i++
		}
		c.set(set...)
		check("with " + strings.Join(names, ", "))
		for _, b := range some {
			if !b.quiet {
				p.loggedSince(from, "/"+b.name+`"`)
			}
		}
	}
	late := newService(9, "late")
	c.set(c.with(late, on("pod-2"))...)
	check("with all")
	if o := c.Client().Dial(proxy.TCP, c.address(late, proxy.NodePort, proxy.IPv6, proxy.TCP), lab.DialOptions{Timeout: longTimeout}); o.Server != "pod-2" {
		t.Errorf("a Service that came last: %s", o)
	}
	if answer, err := p.get("127.0.0.1:10256", "/healthz"); err != nil || answer.status != http.StatusOK {
		t.Errorf("/healthz: %+v, %v", answer, err)
	}
	s.close()
	p.kill()
	p = c.start() // with all of them at once
	check("after a restart")
}
