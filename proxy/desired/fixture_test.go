package desired

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/proxy"
	"turnout/proxy/track"
)

const (
	ownNode = "n1"
	ownZone = "z1"
)

// testFacts are those of a node of both families that recognises pods.
func testFacts() *Facts {
	return &Facts{
		NodeName: ownNode, Zone: ownZone, ExternalIPs: true,
		NodeIPs:  []netip.Addr{netip.MustParseAddr("192.168.0.1"), netip.MustParseAddr("fd00::1")},
		Families: []proxy.Family{proxy.IPv4, proxy.IPv6},
		Node: map[proxy.Family]proxy.Node{
			proxy.IPv4: {LocalPods: proxy.LocalPods{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}}},
			proxy.IPv6: {LocalPods: proxy.LocalPods{Prefixes: []netip.Prefix{netip.MustParsePrefix("fd01::/64")}}},
		},
	}
}

// blind are the facts of a node that cannot recognise pods.
func blind() *Facts {
	f := testFacts()
	f.Node = nil
	return f
}

func with(f *Facts, change func(*Facts)) *Facts {
	change(f)
	return f
}

// cluster is a set of API objects.
type cluster struct {
	services  *track.ServiceChangeTracker
	endpoints *track.EndpointsChangeTracker
}

func newCluster(objects ...any) *cluster {
	c := &cluster{track.NewServiceChangeTracker(), track.NewEndpointsChangeTracker(ownNode)}
	for _, o := range objects {
		c.set(o)
	}
	return c
}

func (c *cluster) set(o any) {
	switch o := o.(type) {
	case *v1.Service:
		c.services.Set(o)
	case *discovery.EndpointSlice:
		c.endpoints.Set(o)
	default:
		panic(fmt.Sprintf("unexpected %T", o))
	}
}

func (c *cluster) input(f *Facts) Input {
	e, _ := c.endpoints.Snapshot()
	return Input{Services: c.services.Snapshot(), Endpoints: e, Facts: f}
}

// service makes the Service default/<name> with ClusterIP and port 80.
func service(name, clusterIP string, change ...func(*v1.Service)) *v1.Service {
	s := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: v1.ServiceSpec{
			Type: v1.ServiceTypeClusterIP, ClusterIP: clusterIP, ClusterIPs: []string{clusterIP},
			Ports: []v1.ServicePort{{Port: 80, Protocol: v1.ProtocolTCP}},
		},
	}
	for _, fn := range change {
		fn(s)
	}
	return s
}

func internalLocal(s *v1.Service) {
	l := v1.ServiceInternalTrafficPolicyLocal
	s.Spec.InternalTrafficPolicy = &l
}

func externalLocal(s *v1.Service) {
	s.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal
}

func nodePort(n int32) func(*v1.Service) {
	return func(s *v1.Service) {
		if s.Spec.Type == v1.ServiceTypeClusterIP {
			s.Spec.Type = v1.ServiceTypeNodePort
		}
		s.Spec.Ports[0].NodePort = n
	}
}

func externalIPs(ips ...string) func(*v1.Service) {
	return func(s *v1.Service) { s.Spec.ExternalIPs = ips }
}

func loadBalancer(ips ...string) func(*v1.Service) {
	return func(s *v1.Service) {
		s.Spec.Type = v1.ServiceTypeLoadBalancer
		for _, ip := range ips {
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, v1.LoadBalancerIngress{IP: ip})
		}
	}
}

func ranges(rs ...string) func(*v1.Service) {
	return func(s *v1.Service) { s.Spec.LoadBalancerSourceRanges = rs }
}

func dual(ip string) func(*v1.Service) {
	return func(s *v1.Service) { s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, ip) }
}

func created(second int64) func(*v1.Service) {
	return func(s *v1.Service) { s.CreationTimestamp = metav1.Unix(second, 0) }
}

// slice makes an EndpointSlice of default/<service> with port 8080. An endpoint is an address and words: local, unready,
// unserving, terminating, zone=…, node=….
func slice(service string, endpoints ...string) *discovery.EndpointSlice {
	name, port, proto := "", int32(8080), v1.ProtocolTCP
	s := &discovery.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: service + "-1",
			Labels: map[string]string{discovery.LabelServiceName: service}},
		AddressType: discovery.AddressTypeIPv4,
		Ports:       []discovery.EndpointPort{{Name: &name, Port: &port, Protocol: &proto}},
	}
	for _, text := range endpoints {
		s.Endpoints = append(s.Endpoints, endpoint(text))
		if strings.Contains(text, ":") {
			s.AddressType, s.Name = discovery.AddressTypeIPv6, service+"-6"
		}
	}
	return s
}

func endpoint(text string) discovery.Endpoint {
	words := strings.Fields(text)
	yes, no := true, false
	e := discovery.Endpoint{Addresses: words[:1], Hints: &discovery.EndpointHints{}}
	for _, w := range words[1:] {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "local":
			own := ownNode
			e.NodeName = &own
		case "unready":
			e.Conditions.Ready = &no
		case "unserving":
			e.Conditions.Serving = &no
		case "terminating":
			e.Conditions.Terminating = &yes
		case "zone":
			e.Hints.ForZones = append(e.Hints.ForZones, discovery.ForZone{Name: value})
		case "node":
			e.Hints.ForNodes = append(e.Hints.ForNodes, discovery.ForNode{Name: value})
		default:
			panic("unexpected word " + w)
		}
	}
	return e
}

// show writes a State as sorted lines, one or a few for each Service.
func show(s *proxy.State) []string {
	var out []string
	for _, svc := range s.Services.All() {
		out = append(out, showService(svc)...)
	}
	for name, h := range s.HealthChecks.All() {
		out = append(out, fmt.Sprintf("%s health :%d local=%d", name.Name, h.Port, h.LocalEndpoints))
	}
	slices.Sort(out)
	return out
}

func showService(s *proxy.Service) []string {
	id := strings.TrimPrefix(s.Name.String(), "default/")
	var out []string
	for i := range s.Frontends {
		f := &s.Frontends[i]
		line := fmt.Sprintf("%s %s %s pod=%s node=%s elsewhere=%s", id, f.Kind, s.Key(f), f.Actions[0], f.Actions[1], f.Actions[2])
		if f.AllowedSources != nil {
			line += fmt.Sprintf(" from=%v", f.AllowedSources)
		}
		out = append(out, line)
	}
	for _, p := range []proxy.Pool{proxy.Cluster, proxy.Local} {
		if eps := s.Pool(p); len(eps) > 0 {
			out = append(out, fmt.Sprintf("%s pool %s %s", id, p, showPool(eps)))
		}
	}
	if s.Affinity > 0 {
		out = append(out, fmt.Sprintf("%s affinity %s", id, s.Affinity))
	}
	if s.NoLocalInternal || s.NoLocalExternal {
		out = append(out, fmt.Sprintf("%s none local: internal=%t external=%t", id, s.NoLocalInternal, s.NoLocalExternal))
	}
	return out
}

func showPool(eps []proxy.Endpoint) string {
	var words []string
	for _, e := range eps {
		w := e.Addr.Addr().String()
		if e.Local {
			w += "*"
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

// diffLines compares what a State shows with wanted lines, in any order.
func diffLines(t *testing.T, want, got []string) {
	t.Helper()
	want = slices.Clone(want)
	slices.Sort(want)
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

// showHealth writes the health check of default/s as "<port> <local endpoints>", "-" if it has none.
func showHealth(s *proxy.State) string {
	h, ok := s.HealthChecks.Get(proxy.ServiceName{Namespace: "default", Name: "s"})
	if !ok {
		return "-"
	}
	return fmt.Sprintf("%d %d", h.Port, h.LocalEndpoints)
}
