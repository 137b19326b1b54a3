package objects

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"turnout/proxy"
	"turnout/proxy/desired"
	"turnout/proxy/proxytest"
	"turnout/proxy/track"
)

// build is what the proxy makes of objects.
func build(services []*v1.Service, slices []*discovery.EndpointSlice) *desired.Result {
	c := proxytest.Addressing()
	s, e := track.NewServiceChangeTracker(), track.NewEndpointsChangeTracker(c.Node)
	for _, o := range services {
		s.Set(o)
	}
	for _, o := range slices {
		e.Set(o)
	}
	facts := &desired.Facts{NodeName: c.Node, Zone: Zones[0], ExternalIPs: true, NodeIPs: c.NodeAddrs,
		Families: proxy.Families[:], Node: map[proxy.Family]proxy.Node{}}
	for _, f := range proxy.Families {
		facts.Node[f] = *proxytest.NodeOf(f)
	}
	in := desired.Input{Services: s.Snapshot(), Facts: facts}
	in.Endpoints, _ = e.Snapshot()
	return desired.Build(nil, in)
}

// What the proxy makes of random objects keeps the model's promises and has something of everything.
func TestRandomCoversTheModel(t *testing.T) {
	kinds := map[proxy.Kind]int{}
	actions := map[string]int{}
	protocols := map[proxy.Protocol]int{}
	var sticky, restricted, health int
	for seed := range uint64(20) {
		services, slices := Random(rand.New(rand.NewPCG(seed, 0)), proxytest.Addressing(), 100)
		r := build(services, slices)
		for f, state := range r.States {
			if err := proxytest.Check(state); err != nil {
				t.Fatalf("seed %d, %s: %v", seed, f, err)
			}
			health += state.HealthChecks.Len()
			for _, s := range state.Services.All() {
				protocols[s.Name.Protocol]++
				if s.Affinity > 0 {
					sticky++
				}
				for i := range s.Frontends {
					fe := &s.Frontends[i]
					kinds[fe.Kind]++
					if fe.AllowedSources != nil {
						restricted++
					}
					for o, a := range fe.Actions {
						actions[fe.Kind.String()+" from "+proxy.Origin(o).String()+": "+a.String()]++
					}
				}
			}
		}
	}
	t.Log(kinds, protocols, actions)
	if len(kinds) != 4 || len(protocols) != 3 || min(sticky, restricted, health) < 20 {
		t.Errorf("kinds %v, protocols %v; %d sticky, %d restricted, %d with health checks", kinds, protocols, sticky, restricted, health)
	}
	for _, want := range []string{
		"ClusterIP from pod: cluster", "ClusterIP from elsewhere: cluster+masquerade", "ClusterIP from pod: local",
		"ClusterIP from elsewhere: drop", "ClusterIP from node: reject",
		"NodePort from elsewhere: local", "NodePort from elsewhere: cluster+masquerade", "NodePort from elsewhere: drop",
		"LoadBalancerIP from pod: cluster", "LoadBalancerIP from node: cluster+masquerade", "ExternalIP from elsewhere: local",
	} {
		if actions[want] == 0 {
			t.Errorf("no frontend with %q", want)
		}
	}
}

func TestRandomIsRepeatable(t *testing.T) {
	draw := func(seed uint64) string {
		services, slices := Random(rand.New(rand.NewPCG(seed, 0)), proxytest.Addressing(), 30)
		text, err := json.MarshalIndent([]any{services, slices, Node(proxytest.Addressing())}, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if diff := cmp.Diff(draw(1), draw(1)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if draw(1) == draw(2) {
		t.Error("the seed makes no difference")
	}
}

// A Service that is drawn again is another version of itself.
func TestServiceKeepsItsName(t *testing.T) {
	rng, c := rand.New(rand.NewPCG(3, 0)), proxytest.Addressing()
	changed := false
	one, _ := Service(rng, c, 5)
	for range 20 {
		two, slices := Service(rng, c, 5)
		if one.Name != two.Name || one.Namespace != two.Namespace {
			t.Fatalf("%s/%s became %s/%s", one.Namespace, one.Name, two.Namespace, two.Name)
		}
		for _, e := range slices {
			if e.Labels[discovery.LabelServiceName] != one.Name || e.Namespace != one.Namespace {
				t.Errorf("slice %s/%s of %q", e.Namespace, e.Name, e.Labels[discovery.LabelServiceName])
			}
		}
		changed = changed || cmp.Diff(one.Spec, two.Spec) != ""
	}
	if !changed {
		t.Error("20 versions are all the same")
	}
}
