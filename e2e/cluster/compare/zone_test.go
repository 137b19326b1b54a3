package compare

import (
	"net/netip"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
	"turnout/proxy/proxytest/objects"
)

// knowZone has both proxies know the zone of their node, which hints are about. kube-proxy may miss it when it starts: what it learns of the Node before it has
// registered who wants to know is told to nobody, and again only when it changes.
func (p *pair) knowZone(t *testing.T) {
	t.Helper()
	c := p.turnout.Lab.Cluster
	zoned := with(c, service(1, "zoned"), on("pod-1", forZone(objects.Zones[0])), on("pod-2", forZone(objects.Zones[1])))
	p.set(zoned...)
	for _, z := range []int{1, 0} {
		labels := map[string]any{"labels": map[string]any{v1.LabelTopologyZone: objects.Zones[z]}}
		if err := p.PatchNode(t.Context(), c.Node, map[string]any{"metadata": labels}); err != nil {
			t.Fatal(err)
		}
		want := []string{"pod-1", "pod-2"}[z]
		for end := time.Now().Add(patience); !p.allReach(want); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("after %v a proxy does not know that the node is in %s", patience, objects.Zones[z])
			}
		}
	}
	p.follow(p.Remove(t.Context(), zoned...))
}

// allReach tells whether a server answers on both sides and in both families, and no other: of two, chance alone would choose the same one so often once in a
// million times.
func (p *pair) allReach(server string) bool {
	for _, side := range p.sides() {
		for _, to := range []string{"10.96.1.1:80", "[fd00:10:96::101]:80"} {
			for range 20 {
				got := side.Lab.Host("pod-3").Dial(proxy.TCP, netip.MustParseAddrPort(to), lab.DialOptions{Timeout: patience})
				if got.Server != server {
					return false
				}
			}
		}
	}
	return true
}
