package desired

import (
	"net/netip"
	"testing"

	"turnout/proxy"
)

// TestFacts: whatever fact changes, the incremental result is the one from scratch, and it is another one than before.
func TestFacts(t *testing.T) {
	changes := map[string]func(*Facts){
		"NodeName":            func(f *Facts) { f.NodeName = "n2" },
		"Zone":                func(f *Facts) { f.Zone = "z2" },
		"NodeIPs":             func(f *Facts) { f.NodeIPs = append(f.NodeIPs, netip.MustParseAddr("203.0.113.1")) },
		"MasqueradeAll":       masqueradeAll,
		"ExternalIPs":         func(f *Facts) { f.ExternalIPs = false },
		"a family less":       func(f *Facts) { f.Families = f.Families[:1] },
		"pods not recognised": func(f *Facts) { f.Node = nil },
		"mark":                func(f *Facts) { f.Node = map[proxy.Family]proxy.Node{proxy.IPv4: {MasqueradeMark: 0x4000}} },
	}
	c := newCluster(
		service("zones", "10.0.0.1", dual("fd00:1::1")), slice("zones", "10.1.1.1 zone=z1", "10.1.1.2 zone=z2"),
		service("nodes", "10.0.0.2"), slice("nodes", "10.1.1.3 node=n1", "10.1.1.4 node=n2"),
		service("outside", "10.0.0.3", externalIPs("192.0.2.1"), loadBalancer("192.0.2.2"), ranges("203.0.113.0/24")),
	)
	before := Build(nil, c.input(testFacts()))
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			in := c.input(with(testFacts(), change))
			got, want := Build(before, in), Build(nil, in)
			if d := diffResults(want, got); d != "" {
				t.Errorf("-from scratch +incremental:\n%s", d)
			}
			if diffResults(before, got) == "" {
				t.Error("nothing changed")
			}
			if d := diffResults(before, Build(got, c.input(testFacts()))); d != "" {
				t.Errorf("changed back: -want +got:\n%s", d)
			}
		})
	}
}
