package e2e

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/proxy"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/lab"
)

// allPods are the pods of the lab.
func (c *cluster) allPods() (names []string) {
	for _, h := range c.Pods("") {
		names = append(names, h.Name)
	}
	return names
}

// A shop is two Services with clients that must never notice anything: "web", whose endpoints may change as long as pod-2 stays, and
// "sticky", which has all pods and session affinity.
type shop struct {
	*cluster
	loads  []*load // to web
	sticky []*load
}

// stock is the shop's Services, web with pod-2 and some other pods.
func (c *cluster) stock(others ...string) []metav1.Object {
	web := []pod{on("pod-2")}
	for _, name := range others {
		web = append(web, on(name))
	}
	var all []pod
	for _, name := range c.allPods() {
		all = append(all, on(name))
	}
	return append(c.with(newService(1, "web"), web...), c.with(newService(2, "sticky", sticky(3600)), all...)...)
}

// open has clients connect to the Services of the shop. The proxy must follow them already.
func (c *cluster) open() *shop {
	c.t.Helper()
	s := &shop{cluster: c}
	web, sticky := newService(1, "web"), newService(2, "sticky")
	for _, x := range []struct {
		host string
		kind proxy.Kind
		f    proxy.Family
	}{{"pod-3", proxy.ClusterIP, proxy.IPv6}, {"client", proxy.NodePort, proxy.IPv4}} {
		s.loads = append(s.loads, startLoad(c.t, c.Host(x.host), proxy.TCP, c.address(web, x.kind, x.f, proxy.TCP), lab.LoadOptions{Parallel: 2}))
	}
	for _, a := range proxytest.AddrsOf(proxy.IPv4, c.Client().Addrs)[:2] {
		s.sticky = append(s.sticky, startLoad(c.t, c.Client(), proxy.TCP, c.address(sticky, proxy.LoadBalancerIP, proxy.IPv4, proxy.TCP), lab.LoadOptions{Parallel: 1, Source: a}))
	}
	return s
}

// close judges what the clients saw.
func (s *shop) close() {
	s.t.Helper()
	for _, l := range s.loads {
		l.judge()
	}
	for _, l := range s.sticky {
		if r := l.judge(); len(r.Servers) != 1 {
			s.t.Errorf("a client with affinity was led to %v, want one server", r.Servers)
		}
	}
}

// churn changes manifests as fast as the proxy follows, for a while, and returns how often: pods of web come and go, and so do other
// Services. wait is called after each change.
func (s *shop) churn(lasting time.Duration, wait func()) (n int) {
	rng := rand.New(rand.NewPCG(3, 4))
	others := []string{"pod-1", "pod-3", "pod-4", "pod-5"}
	for end := time.Now().Add(lasting); time.Now().Before(end); n++ {
		rng.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
		set, gone := s.stock(others[:rng.IntN(len(others)+1)]...), []metav1.Object(nil)
		for range 3 {
			i := 10 + rng.IntN(20)
			noise := s.with(newService(i, fmt.Sprintf("noise-%d", i), sticky(int32(60+rng.IntN(3)))), on(others[0]), on(others[1]))
			if rng.IntN(2) == 0 {
				set = append(set, noise...)
			} else {
				gone = append(gone, noise...)
			}
		}
		s.change(set, gone)
		wait()
	}
	return n
}

// TestHitlessProxy changes manifests as fast as the proxy follows while clients connect.
func TestHitlessProxy(t *testing.T) {
	c := newCluster(t)
	c.serve(c.allPods()...)
	c.set(c.stock()...)
	p := c.start()
	s := c.open()
	start := time.Now()
	n := s.churn(2*(*hitlessFor), p.follow)
	for n < 3 && time.Since(start) < patience { // fewer prove nothing; a busy machine gets the time
		n += s.churn(*hitlessFor, p.follow)
	}
	s.close()
	t.Logf("the proxy followed %d changes in %v", n, time.Since(start))
}
