package compare

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	proxyconfig "k8s.io/kube-proxy/config/v1alpha1"
)

// TestPlantedDifferences makes the two differ, each time in one thing, and wants the comparison to find that and nothing else.
func TestPlantedDifferences(t *testing.T) {
	p := newPair(t, usual)
	c := p.turnout.Lab.Cluster
	all := []metav1.Object{}
	for i, endpoints := range [][]endpointAt{{on("pod-2")}, {on("pod-2"), on("pod-5")}, nil} {
		all = append(all, with(c, service(i+1, []string{"one", "two", "none"}[i]), endpoints...)...)
	}
	all = append(all, with(c, service(4, "sticky", clientAffinity), on("pod-1"), on("pod-2"))...)
	p.set(all...)
	expect := func(what string, about func(*difference) bool) {
		t.Helper()
		differ, _, _ := p.differences(t, packets(c, p.Objects()))
		if len(differ) == 0 {
			t.Errorf("%s: no difference was found", what)
		}
		for _, d := range differ {
			if !about(d) {
				t.Errorf("%s: unexpected: %v", what, d)
			}
		}
	}
	none := func(what string) {
		t.Helper()
		if differ, _, _ := p.differences(t, packets(c, p.Objects())); len(differ) > 0 {
			t.Errorf("%s: %v", what, differ[0])
		}
	}
	none("nothing is planted")

	other, err := p.Config("planted.conf", func(c *proxyconfig.KubeProxyConfiguration) { c.NFTables.MasqueradeAll = true })
	if err != nil {
		t.Fatal(err)
	}
	restart := func(config string) {
		t.Helper()
		if err := p.turnout.End(); err != nil {
			t.Fatal(err)
		}
		p.follow(p.turnout.Start("--config=" + config))
	}
	restart(other)
	expect("masquerade all", func(d *difference) bool { return strings.HasPrefix(d.From, "pod-") && d.kind == "ClusterIP" })
	restart(p.path)
	none("the right configuration again")

	// Turnout does not hear of an endpoint more, of another one instead, and of a Service that is gone.
	p.turnout.Kill()
	changed := with(c, service(1, "one"), on("pod-3"))
	changed = append(changed, with(c, service(2, "two"), on("pod-2"), on("pod-5"), on("pod-3"))...)
	if err := p.Set(t.Context(), changed...); err != nil {
		t.Fatal(err)
	}
	if err := p.Settle(t.Context(), p.upstream); err != nil {
		t.Fatal(err)
	}
	expect("endpoints", func(d *difference) bool { return d.service == "default/one" || d.service == "default/two" })
	if err := p.turnout.Start("--config=" + p.path); err != nil {
		t.Fatal(err)
	}
	p.follow(nil)
	none("both follow again")
}
