package track

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/proxy"
)

var equate = cmp.Options{
	cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{}, Hints{}), cmpopts.EquateEmpty(),
}

// object makes Service default/web with ClusterIP 10.0.0.1 and port http, 80/TCP.
func object(change ...func(*v1.Service)) *v1.Service {
	s := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: v1.ServiceSpec{
			Type: v1.ServiceTypeClusterIP, ClusterIP: "10.0.0.1", ClusterIPs: []string{"10.0.0.1"}, IPFamilies: []v1.IPFamily{v1.IPv4Protocol},
			Ports: []v1.ServicePort{{Name: "http", Port: 80, Protocol: v1.ProtocolTCP}},
		},
	}
	for _, fn := range change {
		fn(s)
	}
	return s
}

var web = proxy.ServiceName{Namespace: "default", Name: "web"}

// record is what object() becomes.
func record(change func(*Service)) *Service {
	s := &Service{
		Name: web, ClusterIPs: [2]netip.Addr{netip.MustParseAddr("10.0.0.1")},
		Ports: []ServicePort{{Name: "http", Protocol: proxy.TCP, Port: 80}},
	}
	if change != nil {
		change(s)
	}
	return s
}

func addrs(texts ...string) (out []netip.Addr) {
	for _, s := range texts {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestServiceRecord(t *testing.T) {
	local, cluster := v1.ServiceInternalTrafficPolicyLocal, v1.ServiceInternalTrafficPolicyCluster
	proxied := v1.LoadBalancerIPModeProxy
	seconds := int32(60)
	tests := []struct {
		name   string
		change func(*v1.Service)
		want   func(*Service)
	}{
		{"a plain Service", func(*v1.Service) {}, nil},
		{"what is not needed is left out", func(s *v1.Service) {
			name := "x"
			s.Labels, s.ResourceVersion, s.Spec.Selector = map[string]string{"a": "b"}, "7", map[string]string{"a": "b"}
			s.Spec.LoadBalancerClass, s.Spec.TrafficDistribution, s.Spec.PublishNotReadyAddresses = &name, &name, true
			s.Spec.Ports[0].AppProtocol, s.Spec.InternalTrafficPolicy = &name, &cluster
		}, nil},
		{"clusterIPs are by ipFamilies", func(s *v1.Service) {
			s.Spec.ClusterIPs, s.Spec.IPFamilies = []string{"10.0.0.1", "fd00::1"}, []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}
		}, func(s *Service) { s.ClusterIPs[1] = netip.MustParseAddr("fd00::1") }},
		{"without ipFamilies the family is that of clusterIP", func(s *v1.Service) {
			s.Spec.ClusterIPs, s.Spec.IPFamilies, s.Spec.ClusterIP = nil, nil, "fd00::1"
		}, func(s *Service) { s.ClusterIPs = [2]netip.Addr{{}, netip.MustParseAddr("fd00::1")} }},
		{"the creation time is kept, to settle conflicts", func(s *v1.Service) { s.CreationTimestamp = metav1.Unix(1234, 0) },
			func(s *Service) { s.Created = 1234 }},
		{"internalTrafficPolicy Local", func(s *v1.Service) { s.Spec.InternalTrafficPolicy = &local }, func(s *Service) { s.InternalLocal = true }},
		{"addresses are sorted, unique, without ipMode Proxy and host names", func(s *v1.Service) {
			s.Spec.ExternalIPs = []string{"192.0.2.2", "2001:db8::1", "192.0.2.1", "192.0.2.2"}
			s.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: "192.0.2.4"}, {IP: "192.0.2.5", IPMode: &proxied}, {Hostname: "x"}, {IP: "192.0.2.3"}}
		}, func(s *Service) {
			s.ExternalIPs, s.LoadBalancerIPs = addrs("192.0.2.1", "192.0.2.2", "2001:db8::1"), addrs("192.0.2.3", "192.0.2.4")
		}},
		{"numbers with leading zeros are decimal, mapped addresses IPv4", func(s *v1.Service) {
			s.Spec.ExternalIPs = []string{"192.000.002.010", "::ffff:192.0.2.11"}
			s.Spec.LoadBalancerSourceRanges = []string{"010.0.0.0/8", "::ffff:192.0.2.0/120", " 192.0.2.77/24\t"}
		}, func(s *Service) {
			s.ExternalIPs = addrs("192.0.2.10", "192.0.2.11")
			s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24")}
		}},
		{"ports of all protocols, TCP if none is said", func(s *v1.Service) {
			s.Spec.Ports = []v1.ServicePort{{Name: "dns", Port: 53, Protocol: v1.ProtocolUDP, NodePort: 30053}, {Name: "dns", Port: 53},
				{Name: "sctp", Port: 65535, Protocol: v1.ProtocolSCTP}}
		}, func(s *Service) {
			s.Ports = []ServicePort{{"dns", proxy.UDP, 53, 30053}, {"dns", proxy.TCP, 53, 0}, {"sctp", proxy.SCTP, 65535, 0}}
		}},
		{"session affinity", func(s *v1.Service) {
			s.Spec.SessionAffinity = v1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &v1.SessionAffinityConfig{ClientIP: &v1.ClientIPConfig{TimeoutSeconds: &seconds}}
		}, func(s *Service) { s.Affinity = time.Minute }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if d := cmp.Diff(record(tt.want), newService(object(tt.change)), equate); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

func TestExternalPolicy(t *testing.T) {
	tests := []struct {
		name   string
		change func(*v1.Service)
		local  bool
		health uint16
	}{
		{"type LoadBalancer, with a health-check node port", func(s *v1.Service) { s.Spec.Type = v1.ServiceTypeLoadBalancer }, true, 32000},
		{"type NodePort", func(s *v1.Service) { s.Spec.Type = v1.ServiceTypeNodePort }, true, 0},
		{"type ClusterIP with external IPs", func(s *v1.Service) { s.Spec.ExternalIPs = []string{"192.0.2.1"} }, true, 0},
		{"type ClusterIP without external IPs", func(*v1.Service) {}, false, 0},
		{"policy Cluster", func(s *v1.Service) {
			s.Spec.Type, s.Spec.ExternalTrafficPolicy = v1.ServiceTypeLoadBalancer, v1.ServiceExternalTrafficPolicyCluster
		}, false, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newService(object(func(s *v1.Service) {
				s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = v1.ServiceExternalTrafficPolicyLocal, 32000
			}, tt.change))
			if s.ExternalLocal != tt.local || s.HealthCheckNodePort != tt.health || len(s.Problems) > 0 {
				t.Errorf("got local %t, health-check node port %d, problems %v", s.ExternalLocal, s.HealthCheckNodePort, s.Problems)
			}
		})
	}
}

// TestServiceProblems: each bad field is reported, and the rest of the Service is used.
func TestServiceProblems(t *testing.T) {
	bad := v1.ServiceInternalTrafficPolicy("Nearby")
	zero := int32(0)
	s := newService(object(func(s *v1.Service) {
		s.Spec.Type, s.Spec.InternalTrafficPolicy, s.Spec.ExternalTrafficPolicy = v1.ServiceTypeLoadBalancer, &bad, "Somewhere"
		s.Spec.ClusterIPs = []string{"10.0.0.1", "10.0.0.2", "fe80::1%eth0"}
		s.Spec.IPFamilies = []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}
		s.Spec.ExternalIPs = []string{"192.0.2", "192.0.2.1", "224.0.0.1"}
		s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/33", "203.0.113.0/24", "::ffff:10.0.0.0/95"}
		s.Spec.SessionAffinity, s.Spec.SessionAffinityConfig = v1.ServiceAffinityClientIP,
			&v1.SessionAffinityConfig{ClientIP: &v1.ClientIPConfig{TimeoutSeconds: &zero}}
		s.Spec.Ports = append(s.Spec.Ports, v1.ServicePort{Name: "p", Port: 0}, v1.ServicePort{Name: "q", Port: 9, Protocol: "ICMP"},
			v1.ServicePort{Name: "http", Port: 81}, v1.ServicePort{Name: "r", Port: 82, NodePort: 65536})
		s.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: "127.0.0.1"}, {IP: "192.0.2.2"}}
	}))
	var got []string
	for _, p := range s.Problems {
		if p.Service != web || p.Slice != "" || p.Remedy == "" {
			t.Errorf("problem %+v", p)
		}
		got = append(got, p.Field+"="+p.Value)
	}
	want := []string{
		"spec.clusterIPs[1]=10.0.0.2", "spec.clusterIPs[2]=fe80::1%eth0", "spec.externalIPs[0]=192.0.2", "spec.externalIPs[2]=224.0.0.1",
		"status.loadBalancer.ingress[0].ip=127.0.0.1", "spec.sessionAffinityConfig.clientIP.timeoutSeconds=0", "spec.ports[1].port=0",
		"spec.ports[2].protocol=ICMP", "spec.ports[3].name=http", "spec.ports[4].nodePort=65536", "spec.internalTrafficPolicy=Nearby",
		"spec.externalTrafficPolicy=Somewhere", "spec.loadBalancerSourceRanges[0]=10.0.0.0/33", "spec.loadBalancerSourceRanges[2]=::ffff:10.0.0.0/95",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("problems: -want +got:\n%s", d)
	}
	s.Problems = nil
	if d := cmp.Diff(record(func(s *Service) {
		s.ExternalIPs, s.LoadBalancerIPs, s.Affinity = addrs("192.0.2.1"), addrs("192.0.2.2"), 3*time.Hour
		s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
		s.Ports = append(s.Ports, ServicePort{"r", proxy.TCP, 82, 0})
	}), s, equate); d != "" {
		t.Errorf("record: -want +got:\n%s", d)
	}
}

func TestMoreServiceProblems(t *testing.T) {
	tests := []struct {
		name   string
		change func(*v1.Service)
		field  string
	}{
		{"a lone clusterIP", func(s *v1.Service) { s.Spec.ClusterIPs, s.Spec.ClusterIP = nil, "10.0.0" }, "spec.clusterIP"},
		{"a clusterIP that is no unicast address", func(s *v1.Service) { s.Spec.ClusterIPs = []string{"::"} }, "spec.clusterIPs[0]"},
		{"an unknown session affinity", func(s *v1.Service) { s.Spec.SessionAffinity = "Cookie" }, "spec.sessionAffinity"},
		{"policy Local without a health-check node port", func(s *v1.Service) {
			s.Spec.Type, s.Spec.ExternalTrafficPolicy = v1.ServiceTypeLoadBalancer, v1.ServiceExternalTrafficPolicyLocal
		}, "spec.healthCheckNodePort"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if ps := newService(object(tt.change)).Problems; len(ps) != 1 || ps[0].Field != tt.field {
				t.Errorf("got problems %v, want one of %s", ps, tt.field)
			}
		})
	}
}

func TestUnreadableSourceRanges(t *testing.T) {
	for text, want := range map[string]bool{"": false, "x": true, "x 10.0.0.0/8": false} {
		s := newService(object(func(s *v1.Service) { s.Spec.LoadBalancerSourceRanges = strings.Fields(text) }))
		if s.SourceRangesUnreadable != want {
			t.Errorf("%q: SourceRangesUnreadable is %t", text, s.SourceRangesUnreadable)
		}
	}
}

func TestProblemsAreBounded(t *testing.T) {
	s := newService(object(func(s *v1.Service) { s.Spec.ExternalIPs = strings.Fields(strings.Repeat("bad ", 100)) }))
	if len(s.Problems) != maxProblems+1 {
		t.Fatalf("got %d problems, want %d", len(s.Problems), maxProblems+1)
	}
	want := "Service default/web: has 84 more problems that are not listed; solve the listed ones first"
	if got := s.Problems[maxProblems].String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestServiceString(t *testing.T) {
	s := newService(object(func(s *v1.Service) { s.Spec.Ports[0].NodePort = 30080 }))
	for _, part := range []string{"default/web ", "[10.0.0.1 invalid IP]", "[http:80/TCP@30080]", "affinity=0s"} {
		if got := s.String(); !strings.Contains(got, part) {
			t.Errorf("%q lacks %q", got, part)
		}
	}
	p := Problem{Service: web, Slice: "web-x", Field: "ports[0].port", Value: "0", Remedy: "is bad"}
	if got, want := p.String(), `EndpointSlice default/web-x: ports[0].port "0": is bad`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestServiceFamilies(t *testing.T) {
	s := newService(object())
	if s.ClusterIP(proxy.IPv4).String() != "10.0.0.1" || s.ClusterIP(proxy.IPv6).IsValid() {
		t.Errorf("ClusterIPs %v", s.ClusterIPs)
	}
	if got, want := s.PortName(&s.Ports[0]).String(), "default/web:http/TCP"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
