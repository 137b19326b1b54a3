package cluster

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/proxy"
)

// TestNode changes the Node object of the node that the proxy runs on. Its parts come one after the other, as there is only one.
func TestNode(t *testing.T) {
	s := ownScene(t)
	service := s.create(full("web"), "pod-2", "pod-5")
	s.follow()
	step := func(name string, do func(*scene, *testing.T)) {
		t.Run(name, func(t *testing.T) { do(&scene{s.cluster, t, s.ns}, t) })
	}
	step("labels", (*scene).nodeLabels)
	step("addresses", (*scene).nodeAddresses)
	step("taint", func(s *scene, t *testing.T) {
		taint := func(taints ...v1.Taint) {
			t.Helper()
			must(t, s.plane.PatchNode(s.ctx, "n1", map[string]any{"spec": map[string]any{"taints": taints}}))
		}
		s.health(t, "/healthz", 200)
		taint(v1.Taint{Key: "ToBeDeletedByClusterAutoscaler", Value: "1", Effect: v1.TaintEffectNoSchedule})
		s.health(t, "/healthz", 503)
		s.health(t, "/livez", 200)
		s.reached(service, "on a node that goes soon", "pod-2", "pod-5")
		taint()
		s.health(t, "/healthz", 200)
	})
	step("deletion", (*scene).nodeDeletion)
}

// nodeLabels moves the node from zone to zone.
func (s *scene) nodeLabels(t *testing.T) {
	zoned := s.create(plain("zoned", func(s *v1.Service) { s.Spec.TrafficDistribution = new(v1.ServiceTrafficDistributionPreferSameZone) }), "pod-3", "pod-4")
	hints := func() string {
		list, err := s.plane.Admin.DiscoveryV1().EndpointSlices(s.ns).List(s.ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=zoned"})
		if err != nil {
			return err.Error()
		}
		n := 0
		for _, slice := range list.Items {
			for _, e := range slice.Endpoints {
				if e.Hints != nil && len(e.Hints.ForZones) > 0 {
					n++
				}
			}
		}
		if n != 4 {
			return fmt.Sprintf("%d of 4 endpoints have hints", n)
		}
		return ""
	}
	s.follow()
	eventually(t, "the controllers gave hints", hints)
	zone := func(name any) {
		t.Helper()
		must(t, s.plane.PatchNode(s.ctx, "n1", map[string]any{"metadata": map[string]any{"labels": map[string]any{v1.LabelTopologyZone: name}}}))
	}
	to := s.clusterIP(zoned, proxy.IPv4)
	s.becomes(t, "zone z1 is led to its own endpoint", "pod-1", to, kept("pod-3"))
	zone("z2")
	s.becomes(t, "zone z2 is led to the other one", "pod-1", to, kept("pod-4"))
	zone("z1")
	s.becomes(t, "zone z1 again", "pod-1", to, kept("pod-3"))
	s.edit("zoned", func(s *v1.Service) { s.Spec.TrafficDistribution = nil })
	s.becomes(t, "without a distribution both are reached", "pod-1", to, kept("pod-3", "pod-4"))
}

// nodeAddresses has the node report another primary address, which is where NodePorts are served.
func (s *scene) nodeAddresses(t *testing.T) {
	service := s.create(full("ports"), "pod-2")
	s.follow()
	old := s.address(service, proxy.NodePort, proxy.IPv4, proxy.TCP)
	second := netip.MustParseAddr("192.168.50.7")
	must(t, s.Node().Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(link, &netlink.Addr{IPNet: netlink.NewIPNet(second.AsSlice())})
	}))
	at := netip.AddrPortFrom(second, old.Port())
	client := func(to netip.AddrPort, want expectation) probe {
		return probe{"NodePort", outside, 0, proxy.TCP, to, want}
	}
	s.probe(t, client(old, masqueraded("pod-2")), client(at, refused))
	must(t, s.plane.SetNodeAddresses(s.ctx, "n1", second, s.Node().Addr(proxy.IPv6)))
	s.becomes(t, "the new address serves NodePorts", outside, at, masqueraded("pod-2"))
	s.becomes(t, "the old address does not", outside, old, refused)
	must(t, s.plane.SetNodeAddresses(s.ctx, "n1", s.Node().Addrs...))
	s.becomes(t, "the old address is back", outside, old, masqueraded("pod-2"))
}

// nodeDeletion deletes the Node object: first it is going, then it is gone, then there is a new one. The controllers may leave out the
// pods of a Node that is not there, so the Service has slices made by hand.
func (s *scene) nodeDeletion(t *testing.T) {
	service := s.create(plain("hand", func(s *v1.Service) {
		s.Spec.Type, s.Spec.Selector, s.Spec.Ports[0].Name = v1.ServiceTypeNodePort, nil, ""
	}))
	for _, f := range proxy.Families {
		e := slice("hand", f, endpointPort, s.Host("pod-2").Addr(f).String(), s.Host("pod-5").Addr(f).String())
		_, err := s.plane.Admin.DiscoveryV1().EndpointSlices(s.ns).Create(s.ctx, e, metav1.CreateOptions{})
		must(t, err)
	}
	s.followMark()
	nodes := s.plane.Admin.CoreV1().Nodes()
	must(t, s.plane.PatchNode(s.ctx, "n1", map[string]any{"metadata": map[string]any{"finalizers": []string{"example.com/wait"}}}))
	must(t, nodes.Delete(s.ctx, "n1", metav1.DeleteOptions{}))
	s.health(t, "/healthz", 503)
	s.health(t, "/livez", 200)
	must(t, s.plane.PatchNode(s.ctx, "n1", map[string]any{"metadata": map[string]any{"finalizers": nil}}))
	eventually(t, "the Node is gone", func() string {
		if node, err := nodes.Get(s.ctx, "n1", metav1.GetOptions{}); err == nil {
			return "there is " + node.Name
		}
		return ""
	})
	s.followMark()
	s.health(t, "/healthz", 503)
	s.reached(service, "without a Node", "pod-2", "pod-5")
	node := probe{"NodePort without a Node", outside, 0, proxy.TCP, s.address(service, proxy.NodePort, proxy.IPv4, proxy.TCP), masqueraded("pod-2", "pod-5")}
	s.probe(t, node)
	// It comes back as from a kubelet whose cloud reports addresses later.
	_, err := nodes.Create(s.ctx, &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{})
	must(t, err)
	s.health(t, "/healthz", 200)
	s.followMark()
	s.probe(t, node)
	must(t, s.plane.SetNodeAddresses(s.ctx, "n1", s.Node().Addrs...))
	s.followMark()
	s.probe(t, node)
}
