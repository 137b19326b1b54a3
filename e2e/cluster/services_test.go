package cluster

import (
	"maps"
	"net/netip"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/proxy"
)

func netipPort(a netip.AddrPort, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr(), port)
}

// TestDualStack gives Services one family, the other, both, and takes one away again.
func TestDualStack(t *testing.T) {
	s := sharedScene(t)
	families := func(policy v1.IPFamilyPolicy, list ...v1.IPFamily) part {
		return func(s *v1.Service) { s.Spec.IPFamilyPolicy, s.Spec.IPFamilies = &policy, list }
	}
	four := s.create(plain("four", families(v1.IPFamilyPolicySingleStack, v1.IPv4Protocol)), "pod-2")
	six := s.create(plain("six", families(v1.IPFamilyPolicySingleStack, v1.IPv6Protocol)), "pod-2")
	both := s.create(plain("both", families(v1.IPFamilyPolicyPreferDualStack, v1.IPv6Protocol, v1.IPv4Protocol)), "pod-2")
	s.follow()
	if len(four.Spec.ClusterIPs) != 1 || len(six.Spec.ClusterIPs) != 1 || len(both.Spec.ClusterIPs) != 2 {
		t.Fatalf("addresses %v, %v, %v", four.Spec.ClusterIPs, six.Spec.ClusterIPs, both.Spec.ClusterIPs)
	}
	tcp := func(name string, to netip.AddrPort, want expectation) probe {
		return probe{name, localPod, 0, proxy.TCP, to, want}
	}
	s.probe(t,
		tcp("IPv4 alone", s.clusterIP(four, proxy.IPv4), kept("pod-2")),
		tcp("IPv6 alone", s.clusterIP(six, proxy.IPv6), kept("pod-2")),
		tcp("both, IPv4", s.clusterIP(both, proxy.IPv4), kept("pod-2")),
		tcp("both, IPv6", s.clusterIP(both, proxy.IPv6), kept("pod-2")))

	four = s.edit("four", func(s *v1.Service) { s.Spec.IPFamilyPolicy = new(v1.IPFamilyPolicyRequireDualStack) })
	s.follow()
	second := s.clusterIP(four, proxy.IPv6)
	s.probe(t, tcp("IPv4 with a second family", s.clusterIP(four, proxy.IPv4), kept("pod-2")), tcp("the second family", second, kept("pod-2")))

	s.edit("four", func(s *v1.Service) {
		s.Spec.IPFamilyPolicy, s.Spec.IPFamilies, s.Spec.ClusterIPs = new(v1.IPFamilyPolicySingleStack), s.Spec.IPFamilies[:1], s.Spec.ClusterIPs[:1]
	})
	s.follow()
	s.probe(t, tcp("IPv4 again alone", s.clusterIP(four, proxy.IPv4), kept("pod-2")), tcp("the family that was taken away", second, dropped))
}

// retype changes a Service's type, and takes back what only the type before can have.
func retype(to v1.ServiceType) part {
	return func(s *v1.Service) {
		s.Spec.Type, s.Spec.ExternalName = to, ""
		switch to {
		case v1.ServiceTypeExternalName:
			s.Spec.ExternalName, s.Spec.ClusterIP, s.Spec.ClusterIPs = "example.com", "", nil
			s.Spec.IPFamilies, s.Spec.IPFamilyPolicy, s.Spec.InternalTrafficPolicy = nil, nil, nil
		case v1.ServiceTypeClusterIP:
			s.Spec.ExternalTrafficPolicy, s.Spec.AllocateLoadBalancerNodePorts = "", nil
			for i := range s.Spec.Ports {
				s.Spec.Ports[i].NodePort = 0
			}
		}
		if s.Spec.IPFamilyPolicy == nil && to != v1.ServiceTypeExternalName {
			s.Spec.IPFamilyPolicy = new(v1.IPFamilyPolicyRequireDualStack)
		}
	}
}

// TestServiceTypes takes one Service through all types and back.
func TestServiceTypes(t *testing.T) {
	s := sharedScene(t)
	service := s.create(plain("web"), "pod-2")
	s.follow()
	s.reached(service, "ClusterIP", "pod-2")

	service = s.edit("web", retype(v1.ServiceTypeNodePort))
	s.follow()
	node := s.address(service, proxy.NodePort, proxy.IPv4, proxy.TCP)
	s.reached(service, "NodePort", "pod-2")
	s.probe(t, probe{"NodePort", outside, 0, proxy.TCP, node, masqueraded("pod-2")})

	service = s.edit("web", retype(v1.ServiceTypeLoadBalancer))
	service.Status.LoadBalancer.Ingress = full("any").Status.LoadBalancer.Ingress
	service, err := s.plane.Admin.CoreV1().Services(s.ns).UpdateStatus(s.ctx, service, metav1.UpdateOptions{})
	must(t, err)
	s.follow()
	vip := s.address(service, proxy.LoadBalancerIP, proxy.IPv6, proxy.TCP)
	s.probe(t,
		probe{"LoadBalancer", outside, 0, proxy.TCP, vip, masqueraded("pod-2")},
		probe{"NodePort of a LoadBalancer", outside, 0, proxy.TCP, node, masqueraded("pod-2")})

	service = s.edit("web", retype(v1.ServiceTypeClusterIP))
	s.follow()
	s.reached(service, "ClusterIP again", "pod-2")
	s.probe(t,
		probe{"the load-balancer IP is gone", thisNode, 0, proxy.TCP, vip, passed},
		probe{"the NodePort is gone", outside, 0, proxy.TCP, node, refused})

	before := s.clusterIP(service, proxy.IPv4)
	s.edit("web", retype(v1.ServiceTypeExternalName))
	s.follow()
	s.probe(t, probe{"ExternalName", localPod, 0, proxy.TCP, before, dropped})

	service = s.edit("web", retype(v1.ServiceTypeNodePort))
	s.follow()
	s.reached(service, "NodePort after ExternalName", "pod-2")
	before = s.clusterIP(service, proxy.IPv4)

	// A ClusterIP cannot be given up at once: the way to headless leads through ExternalName.
	s.edit("web", retype(v1.ServiceTypeExternalName))
	s.edit("web", retype(v1.ServiceTypeClusterIP), func(s *v1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = v1.ClusterIPNone, nil })
	s.follow()
	s.probe(t, probe{"headless", localPod, 0, proxy.TCP, before, dropped})
	s.lacks("web")

	s.edit("web", retype(v1.ServiceTypeExternalName))
	service = s.edit("web", retype(v1.ServiceTypeClusterIP))
	s.follow()
	s.reached(service, "ClusterIP after headless", "pod-2")
}

// lacks checks that the proxy has nothing of a Service.
func (s *scene) lacks(name string) {
	s.t.Helper()
	_, state, err := s.get(metricsServer, "/debug/state")
	must(s.t, err)
	if strings.Contains(state, "  "+s.ns+"/"+name+":") {
		s.t.Errorf("%s is still there", name)
	}
}

// TestServiceProxyName gives a Service to another proxy, and back.
func TestServiceProxyName(t *testing.T) {
	s := sharedScene(t)
	service := s.create(plain("web"), "pod-2")
	another := func(s *v1.Service) {
		s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "another"}
	}
	s.create(plain("from-the-start", another), "pod-2")
	s.follow()
	s.lacks("from-the-start")
	s.reached(service, "without the label", "pod-2")
	for range 2 {
		s.edit("web", another)
		s.follow()
		s.lacks("web")
		s.probe(t, probe{"with the label", localPod, 0, proxy.TCP, s.clusterIP(service, proxy.IPv4), dropped})
		s.edit("web", func(s *v1.Service) { s.Labels = nil })
		s.follow()
		s.reached(service, "without the label again", "pod-2")
	}
}

// TestHeadlessLabel marks EndpointSlices as those of a headless Service, which nobody should be led to, and takes that back. On a Service
// the label means nothing.
func TestHeadlessLabel(t *testing.T) {
	s := sharedScene(t)
	mark := func(on bool) map[string]string {
		if on {
			return map[string]string{v1.IsHeadlessService: ""}
		}
		return nil
	}
	service := s.create(plain("web", func(s *v1.Service) { s.Spec.Selector, s.Spec.Ports[0].Name = nil, "" }))
	slices := s.plane.Admin.DiscoveryV1().EndpointSlices(s.ns)
	for i, hidden := range []bool{false, true, false, true} {
		for _, f := range proxy.Families {
			e := slice("web", f, endpointPort, s.Host("pod-2").Addr(f).String())
			maps.Copy(e.Labels, mark(hidden))
			var err error
			if i == 0 {
				_, err = slices.Create(s.ctx, e, metav1.CreateOptions{})
			} else {
				_, err = slices.Update(s.ctx, e, metav1.UpdateOptions{})
			}
			must(t, err)
		}
		s.edit("web", func(s *v1.Service) { s.Labels = mark(i == 2) })
		s.follow()
		if hidden {
			s.reached(service, "slices with the label")
		} else {
			s.reached(service, "slices without the label", "pod-2")
		}
	}
}

// TestServiceCIDR adds a network for ClusterIPs, uses it, and removes it. It has a cluster of its own, as Services of others would get
// addresses of the new network and keep it from going.
func TestServiceCIDR(t *testing.T) {
	s := ownScene(t)
	nobody := []netip.AddrPort{netip.MustParseAddrPort("10.55.0.9:80"), netip.MustParseAddrPort("[fd00:10:55::9]:80")}
	expect := func(what string, want expectation) {
		t.Helper()
		for _, to := range nobody {
			s.becomes(t, what, localPod, to, want)
		}
	}
	expect("addresses of a network that is none of Services' are let pass", passed)
	more := &networking.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}}
	for _, p := range moreServiceCIDRs {
		more.Spec.CIDRs = append(more.Spec.CIDRs, p.String())
	}
	_, err := s.plane.Admin.NetworkingV1().ServiceCIDRs().Create(s.ctx, more, metav1.CreateOptions{})
	must(t, err)
	expect("addresses of Services that nobody has are dropped", dropped)

	service := plain("web", func(s *v1.Service) {
		s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.55.0.10", []string{"10.55.0.10", "fd00:10:55::a"}
	})
	eventually(t, "the API server accepts an address of the new network", func() string {
		if _, err := s.plane.Admin.CoreV1().Services(s.ns).Create(s.ctx, service, metav1.CreateOptions{}); err != nil {
			return err.Error()
		}
		return ""
	})
	s.run("web", "pod-2")
	s.follow()
	s.reached(service, "a Service of the new network", "pod-2")
	s.remove("web")
	must(t, s.plane.Admin.NetworkingV1().ServiceCIDRs().Delete(s.ctx, "more", metav1.DeleteOptions{}))
	expect("addresses of the network that was removed are let pass", passed)
}
