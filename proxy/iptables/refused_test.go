package iptables

import (
	"testing"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// onCluster is a Service with a ClusterIP and an endpoint on another node.
func onCluster(f proxy.Family, name, n string) *proxy.Service {
	return proxytest.NewService("ns/"+name+"/TCP", proxytest.At(proxy.ClusterIP, in(f, "10.96.0."+n+":80", "[fd00:10:96::"+n+"]:80"), proxytest.Internal),
		proxytest.On(in(f, "10.244.2."+n+":8080", "[fd00:10:244:2::"+n+"]:8080")))
}

// What is refused as a whole is no Service's fault, also if the line before is a Service's.
func TestRefusedAsAWhole(t *testing.T) {
	state := proxytest.NewState(proxy.IPv4, onCluster(proxy.IPv4, "a", "1"), onCluster(proxy.IPv4, "b", "2"), onCluster(proxy.IPv4, "c", "3"))
	for _, size := range []int{0, 1} {
		k := newFakeKernel()
		k.size = size
		k.refuse = func(l string) bool { return l == "COMMIT" }
		b := newBackend(Options{Family: proxy.IPv4}, k)
		_, err := b.Apply(t.Context(), state)
		if kindOf(err) != Refused || k.scripts != 1 {
			t.Errorf("steps of %d: %v after %d scripts, want an error after the first", size, err, k.scripts)
		}
		k.refuse = nil
		if r, err := b.Apply(t.Context(), state); err != nil || len(r.Rejected) > 0 {
			t.Errorf("steps of %d: %+v, %v when it works again", size, r, err)
		}
	}
}
