package cluster

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"turnout/proxy"
)

// reached expects a client on localPod to be led to some pods, in both families.
func (s *scene) reached(service *v1.Service, what string, servers ...string) {
	s.t.Helper()
	want := kept(servers...)
	if len(servers) == 0 {
		want = refused
	}
	var probes []probe
	for _, f := range proxy.Families {
		probes = append(probes, probe{what, localPod, 0, proxy.TCP, s.clusterIP(service, f), want})
	}
	s.probe(s.t, probes...)
}

// TestEndpointSlices has the controllers write slices while pods of a Service come, become ready and unready, terminate and go.
func TestEndpointSlices(t *testing.T) {
	s := sharedScene(t)
	service := s.create(plain("web"), "!pod-2")
	s.follow()
	s.reached(service, "no pod is ready")

	within(t, 20*time.Second, "a pod that becomes ready is reached", func() {
		must(t, s.plane.SetReady(s.ctx, s.ns, pod("web", "pod-2"), true))
		s.becomes(t, "a ready pod is reached", localPod, s.clusterIP(service, proxy.IPv4), kept("pod-2"))
	})
	s.run("web", "pod-5")
	s.run("web", "n2") // in the network of its host
	s.follow()
	s.reached(service, "three pods", "pod-2", "pod-5", "n2")

	must(t, s.plane.SetReady(s.ctx, s.ns, pod("web", "pod-2"), false), s.plane.RemovePod(s.ctx, s.ns, pod("web", "n2")))
	s.follow()
	s.reached(service, "one is not ready, one is gone", "pod-5")

	must(t, s.plane.Terminate(s.ctx, s.ns, pod("web", "pod-5")))
	s.follow()
	s.reached(service, "the only one that serves terminates", "pod-5")

	must(t, s.plane.SetReady(s.ctx, s.ns, pod("web", "pod-2"), true))
	s.follow()
	s.reached(service, "another one is ready again", "pod-2")

	must(t, s.plane.RemovePod(s.ctx, s.ns, pod("web", "pod-2")), s.plane.RemovePod(s.ctx, s.ns, pod("web", "pod-5")))
	s.follow()
	s.reached(service, "all are gone")
}

// TestNotReadyAddresses switches whether pods that are not ready are endpoints all the same.
func TestNotReadyAddresses(t *testing.T) {
	s := sharedScene(t)
	service := s.create(plain("web", func(s *v1.Service) { s.Spec.PublishNotReadyAddresses = true }), "!pod-2", "pod-5")
	s.follow()
	s.reached(service, "published", "pod-2", "pod-5")
	s.edit("web", func(s *v1.Service) { s.Spec.PublishNotReadyAddresses = false })
	s.follow()
	s.reached(service, "no longer published", "pod-5")
}

// TestPorts adds, moves and removes ports of a Service, and has its endpoints serve elsewhere.
func TestPorts(t *testing.T) {
	s := sharedScene(t)
	service := s.create(plain("web", func(s *v1.Service) { s.Spec.Type = v1.ServiceTypeNodePort }), "pod-2")
	s.follow()
	at, node := s.clusterIP(service, proxy.IPv4), s.address(service, proxy.NodePort, proxy.IPv4, proxy.TCP)
	s.probe(t, probe{"at first", localPod, 0, proxy.TCP, at, kept("pod-2")}, probe{"at first", outside, 0, proxy.TCP, node, masqueraded("pod-2")})

	const closed = 8089 // nobody serves there
	s.edit("web", func(s *v1.Service) {
		second := *s.Spec.Ports[0].DeepCopy()
		second.Name, second.Port, second.NodePort = "second", 81, 0
		s.Spec.Ports = append(s.Spec.Ports, second)
		s.Spec.Ports[0].TargetPort = intstr.FromInt32(closed)
	})
	s.follow()
	second := at
	second = netipPort(second, 81)
	s.probe(t,
		probe{"a closed target port", localPod, 0, proxy.TCP, at, refused},
		probe{"a second port", localPod, 0, proxy.TCP, second, kept("pod-2")})

	service = s.edit("web", func(s *v1.Service) { s.Spec.Ports = s.Spec.Ports[1:] })
	s.follow()
	moved := s.address(service, proxy.NodePort, proxy.IPv4, proxy.TCP)
	s.probe(t,
		probe{"the first port is gone", localPod, 0, proxy.TCP, at, refused},
		probe{"the first node port is gone", outside, 0, proxy.TCP, node, refused},
		probe{"the second is left", localPod, 0, proxy.TCP, second, kept("pod-2")},
		probe{"its node port", outside, 0, proxy.TCP, moved, masqueraded("pod-2")})
}

// TestByHand serves a Service without a selector, whose slices somebody else writes.
func TestByHand(t *testing.T) {
	s := sharedScene(t)
	service := s.create(plain("hand", func(s *v1.Service) { s.Spec.Selector, s.Spec.Ports[0].Name = nil, "" }))
	slices := s.plane.Admin.DiscoveryV1().EndpointSlices(s.ns)
	for _, f := range proxy.Families {
		// A machine outside of the cluster is an endpoint, too.
		_, err := slices.Create(s.ctx, slice("hand", f, endpointPort, s.Host("n2").Addr(f).String()), metav1.CreateOptions{})
		must(t, err)
	}
	s.follow()
	s.reached(service, "slices by hand", "n2")
	for _, f := range proxy.Families {
		e := slice("hand", f, endpointPort, s.Host("pod-3").Addr(f).String(), s.Host("pod-5").Addr(f).String())
		_, err := slices.Update(s.ctx, e, metav1.UpdateOptions{})
		must(t, err)
	}
	s.follow()
	s.reached(service, "slices that were replaced", "pod-3", "pod-5")
	for _, f := range proxy.Families {
		must(t, slices.Delete(s.ctx, slice("hand", f, endpointPort).Name, metav1.DeleteOptions{}))
	}
	s.follow()
	s.reached(service, "slices that were deleted")
}
