package cluster

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"turnout/e2e/cluster/plane"
	"turnout/proxy"
)

// TestKilled kills the proxy again and again under load, with changes while it is away. Clients of Services that did not change must
// not notice; what changed must arrive when it is back.
func TestKilled(t *testing.T) {
	s := ownScene(t)
	stays := s.create(full("stays"), "pod-2", "pod-5")
	sticks := s.create(plain("sticks", sticky), "pod-2", "pod-3", "pod-5")
	changes := s.create(plain("changes"), "pod-2")
	s.follow()
	loads := []*load{
		s.apply(t, "ClusterIP", localPod, s.clusterIP(stays, proxy.IPv4)),
		s.apply(t, "ClusterIP, IPv6", localPod, s.clusterIP(stays, proxy.IPv6)),
		s.apply(t, "NodePort", outside, s.address(stays, proxy.NodePort, proxy.IPv4, proxy.TCP)),
		s.apply(t, "load-balancer IP", outside, s.address(stays, proxy.LoadBalancerIP, proxy.IPv6, proxy.TCP)),
		s.apply(t, "ClusterIP with affinity", localPod, s.clusterIP(sticks, proxy.IPv4)),
	}
	hosts := []string{"pod-2", "pod-3"}
	for i := range 4 {
		s.proxy.Kill()
		from, to := hosts[i%2], hosts[(i+1)%2]
		must(t, s.plane.RemovePod(s.ctx, s.ns, pod("changes", from)))
		s.run("changes", to)
		if i > 0 {
			s.remove("fleeting")
		}
		var fleeting *v1.Service
		if i < 3 {
			fleeting = s.create(plain("fleeting"), map[bool][]string{true: {"pod-3"}}[i == 0]...)
		}
		time.Sleep(100 * time.Millisecond)
		_, err := s.start(plane.NodeProxy)
		must(t, err)
		s.follow()
		s.reached(changes, "endpoints changed while the proxy was away", to)
		if fleeting != nil {
			s.reached(fleeting, "a Service made while the proxy was away", "pod-3")
		} else {
			s.lacks("fleeting")
		}
	}
	for _, l := range loads {
		l.judge()
	}
}
