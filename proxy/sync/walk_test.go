package sync

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"

	"turnout/conntrack"
	"turnout/proxy"
	"turnout/proxy/metrics"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/objects"
	"turnout/proxy/source"
)

// world is what exists in a cluster that changes at random.
type world struct {
	*rand.Rand
	services map[string]*v1.Service
	slices   map[string]*discovery.EndpointSlice
	cidrs    map[string]*networking.ServiceCIDR
	node     *v1.Node
}

const walkServices = 25

func newWorld(seed uint64) *world {
	return &world{
		Rand: rand.New(rand.NewPCG(seed, 99)), services: map[string]*v1.Service{}, slices: map[string]*discovery.EndpointSlice{},
		cidrs: map[string]*networking.ServiceCIDR{}, node: objects.Node(proxytest.Addressing()),
	}
}

// deliver tells a Loop that knows nothing yet everything that exists.
func (w *world) deliver(l *Loop) {
	l.SetNode(w.node)
	for _, c := range w.cidrs {
		l.SetServiceCIDR(c)
	}
	for _, e := range w.slices {
		l.SetEndpointSlice(e)
	}
	for _, s := range w.services {
		l.SetService(s)
	}
}

// step changes something and tells the loop.
func (w *world) step(r *rig) {
	switch w.IntN(12) {
	case 0, 1, 2, 3, 4:
		w.redraw(r.loop, w.IntN(walkServices))
	case 5, 6:
		w.deleteSome(r.loop)
	case 7:
		for _, f := range proxy.Families {
			r.kernels[f].destroy()
			r.loop.Interfered(r.ctx, f, "delete table", "nft", 1)
		}
	case 8:
		w.changeNode(r.loop)
	case 9:
		addrs := slices.Clone(proxytest.Addressing().NodeAddrs)
		w.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
		r.local.set(addrs[:w.IntN(len(addrs)+1)]...)
		r.loop.AddressesChanged()
	case 10:
		name := fmt.Sprint("cidr-", w.IntN(3))
		if _, ok := w.cidrs[name]; ok && w.IntN(2) == 0 {
			delete(w.cidrs, name)
			r.loop.DeleteServiceCIDR(name)
			return
		}
		w.cidrs[name] = serviceCIDR(name, fmt.Sprintf("10.%d.0.0/16", 90+w.IntN(9)), "fd00:10:96::/112")
		r.loop.SetServiceCIDR(w.cidrs[name])
	case 11:
		for _, f := range proxy.Families {
			r.faults[f].setRate(w.Float64() * 0.8)
		}
	}
}

// redraw makes another version of a Service, and of its slices in whatever order.
func (w *world) redraw(l *Loop, i int) {
	s, es := objects.Service(w.Rand, proxytest.Addressing(), i)
	key := s.Namespace + "/" + s.Name
	var do []func()
	if w.IntN(5) > 0 || w.services[key] == nil {
		w.services[key] = s
		do = append(do, func() { l.SetService(s) })
	}
	had := maps.Clone(w.slices)
	for _, e := range es {
		k := e.Namespace + "/" + e.Name
		w.slices[k] = e
		delete(had, k)
		do = append(do, func() { l.SetEndpointSlice(e) })
	}
	for k, e := range had {
		if e.Namespace == s.Namespace && e.Labels[discovery.LabelServiceName] == s.Name {
			delete(w.slices, k)
			do = append(do, func() { l.DeleteEndpointSlice(e.Namespace, e.Name) })
		}
	}
	w.Shuffle(len(do), func(i, j int) { do[i], do[j] = do[j], do[i] })
	for _, f := range do {
		f()
	}
}

func (w *world) deleteSome(l *Loop) {
	if names := slices.Sorted(maps.Keys(w.services)); len(names) > 0 && w.IntN(2) == 0 {
		s := w.services[names[w.IntN(len(names))]]
		delete(w.services, s.Namespace+"/"+s.Name)
		l.DeleteService(proxy.ServiceName{Namespace: s.Namespace, Name: s.Name})
	}
	if names := slices.Sorted(maps.Keys(w.slices)); len(names) > 0 {
		e := w.slices[names[w.IntN(len(names))]]
		delete(w.slices, e.Namespace+"/"+e.Name)
		l.DeleteEndpointSlice(e.Namespace, e.Name)
	}
}

func (w *world) changeNode(l *Loop) {
	w.node = w.node.DeepCopy()
	switch w.IntN(3) {
	case 0:
		w.node.Labels = map[string]string{v1.LabelTopologyZone: objects.Zones[w.IntN(2)]}
	case 1:
		w.node.Labels = nil
	case 2:
		w.node.Status.Addresses[0].Address = proxytest.Addressing().NodeAddrs[w.IntN(3)].String()
	}
	l.SetNode(w.node)
}

// Wherever a cluster's changes lead, with kernels that fail and are interfered with all the way: in the end they hold what a proxy that
// starts then would program, the counts are right, and the flow cleaner was told everything.
func TestRandomWalk(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(seed)
			told := map[proxy.Family]map[proxy.ServicePortName]*proxy.Service{proxy.IPv4: {}, proxy.IPv6: {}}
			run(t, func(r *rig) {
				for i := range walkServices / 2 {
					w.redraw(r.loop, i)
				}
				r.synced()
				for range 150 {
					w.step(r)
					if w.IntN(3) > 0 {
						time.Sleep(time.Duration(w.ExpFloat64() * float64(60*time.Millisecond)))
					}
				}
				r.setRate(0.2)
				r.settle()
				states, _, problems := Preview(r.loop.options, func(l source.Sink) { w.deliver(l.(*Loop)) })
				for i, f := range proxy.Families {
					if diff := cmp.Diff(text(states[i]), r.kernels[f].holds()); diff != "" {
						t.Errorf("the kernel holds -want +got:\n%s", diff)
					}
					if diff := cmp.Diff(whole(states[i]), whole(r.loop.States()[i])); diff != "" {
						t.Errorf("the State is -want +got:\n%s", diff)
					}
					services, endpoints, frontends := size(states[i])
					label := "ip_family=" + f.String()
					r.wantValue(services, metrics.Services, label)
					r.wantValue(endpoints, metrics.Endpoints, label)
					r.wantValue(frontends, metrics.Frontends, label)
					follow(told[f], r.cleaners[f].take())
					if diff := cmp.Diff(udp(states[i]), describeAll(told[f])); diff != "" {
						t.Errorf("%s: what the flow cleaner knows -want +got:\n%s", f, diff)
					}
				}
				if r.faults[proxy.IPv4].failures() == 0 {
					t.Error("nothing failed")
				}
				if got := r.loop.result.Problems.Len() > 0; got != (len(problems) > 0) {
					t.Errorf("problems %t, want %q", got, problems)
				}
			}, func(s *settings) { s.seed = seed })
		})
	}
}

func size(s *proxy.State) (services, endpoints, frontends float64) {
	for _, service := range s.Services.All() {
		services++
		endpoints += float64(len(service.Serving))
		frontends += float64(len(service.Frontends))
	}
	return services, endpoints, frontends
}

// follow carries out changes as the flow cleaner does: each must begin where the one before ended.
func follow(known map[proxy.ServicePortName]*proxy.Service, changes []conntrack.Change) {
	for _, c := range changes {
		if c.Old != nil {
			if known[c.Old.Name] != c.Old {
				panic("a change that does not follow the one before: " + c.Old.Name.String())
			}
			delete(known, c.Old.Name)
		}
		if c.New != nil {
			known[c.New.Name] = c.New
		}
	}
}

func udp(s *proxy.State) map[string]string {
	services := map[proxy.ServicePortName]*proxy.Service{}
	for name, service := range s.Services.All() {
		if name.Protocol == proxy.UDP {
			services[name] = service
		}
	}
	return describeAll(services)
}

func describeAll(services map[proxy.ServicePortName]*proxy.Service) map[string]string {
	out := map[string]string{}
	for name, s := range services {
		out[name.String()] = describe(s)
	}
	return out
}
