package objects

import (
	"net/netip"
	"testing"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// What is made by hand is what the proxy makes of it, and an address is where the proxy has a frontend.
func TestByHand(t *testing.T) {
	c := proxytest.Addressing()
	s := &v1.Service{}
	s.Namespace, s.Name, s.Spec.Type = "default", "web", v1.ServiceTypeLoadBalancer
	s.Spec.IPFamilies = []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}
	s.Spec.ClusterIPs, s.Spec.ExternalIPs = []string{"10.96.0.9", "fd00:10:96::9"}, []string{"192.168.60.9", "fd60::9"}
	s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	s.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{Hostname: "lb.example.com"}, {IP: "192.168.60.8"}, {IP: "fd60::8"}}
	s.Spec.Ports = []v1.ServicePort{{Name: "web", Protocol: v1.ProtocolTCP, Port: 80, NodePort: 30080}, {Name: "dns", Protocol: v1.ProtocolUDP, Port: 53, NodePort: 30053}}
	for _, part := range []Part{InternalLocal, ExternalLocal, ClientIP, SourceRanges("192.168.50.0/24", "fd50::/64")} {
		part(s)
	}
	var slices []*discovery.EndpointSlice
	target := func(i int) int32 { return int32(8080 + i) }
	for _, o := range EndpointSlices(s, c.Host, target, On("pod-1"), On("pod-2", Conditions(false, false, false)), On("pod-4", Conditions(false, true, true))) {
		slices = append(slices, o.(*discovery.EndpointSlice))
	}
	r := build([]*v1.Service{s}, slices)
	for f, state := range r.States {
		service, ok := state.Services.Get(proxytest.Name("default/web:dns/UDP"))
		if !ok || len(service.Frontends) != 4 || len(service.Serving) != 2 || len(service.Local) != 1 || service.Affinity == 0 {
			t.Fatalf("%s: %+v", f, service)
		}
		if want := netip.AddrPortFrom(c.Host("pod-1").Addr(f), 8081); service.Local[0].Addr != want {
			t.Errorf("%s: endpoint %s, want %s", f, service.Local[0].Addr, want)
		}
		for i := range service.Frontends {
			fe := &service.Frontends[i]
			want := netip.AddrPortFrom(fe.Addr, fe.Port)
			if fe.Kind == proxy.NodePort {
				want = netip.AddrPortFrom(c.Hosts[0].Addr(f), fe.Port)
			}
			if got := Address(s, fe.Kind, f, proxy.UDP, c.Hosts[0].Addr(f)); got != want {
				t.Errorf("%s: %s at %s, want %s", f, fe.Kind, got, want)
			}
		}
	}
	if got := Address(s, proxy.ClusterIP, proxy.IPv4, proxy.SCTP, netip.Addr{}); got.IsValid() {
		t.Errorf("a protocol without a port is reached at %s", got)
	}
}
