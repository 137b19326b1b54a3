package ipvs

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/ipvs/genl"
)

// fakeKernel is IPVS, the interface and the gate in memory. It refuses what the kernel would.
type fakeKernel struct {
	family   proxy.Family
	list     map[genl.Key]*fakeServer
	addrs    map[netip.Addr]bool // nil without the interface
	others   map[netip.Addr]bool
	timeouts genl.Timeouts
	gate     *proxy.State // what the gate's table was made for; nil if there is none
	admitted *proxy.State // what the gate follows when Retire is called
	disarmed bool         // no packet comes to the gate
	log      []string     // of every change
	// refuse, if set, may make a change fail, and refuseRules the rules of a Service.
	refuse      func(what string) error
	refuseRules func(proxy.ServicePortName) error
	// hidden is a virtual server that the next listing misses, as happens when others make or delete some meanwhile.
	hidden genl.Key
}

type fakeServer struct {
	genl.Server
	destinations map[netip.AddrPort]*genl.Destination
}

func newFakeKernel(f proxy.Family) *fakeKernel {
	return &fakeKernel{family: f, list: map[genl.Key]*fakeServer{}, others: map[netip.Addr]bool{}}
}

// backend returns a Backend that knows nothing of what went before.
func (k *fakeKernel) backend(o Options) *Backend {
	o.Family = k.family
	if o.Sysctl == nil {
		o.Sysctl = fakeSysctl{}
	}
	return newBackend(o, kernel{servers: k, device: (*fakeDevice)(k), gate: &fakeGate{k: k}})
}

func (k *fakeKernel) change(what string, args ...any) error {
	text := fmt.Sprintf(what, args...)
	if k.refuse != nil {
		if err := k.refuse(text); err != nil {
			return err
		}
	}
	k.log = append(k.log, text)
	return nil
}

func (k *fakeKernel) Servers(f proxy.Family) (out []genl.Server, err error) {
	for key, x := range k.list {
		if key.Family() == f && key != k.hidden {
			out = append(out, x.Server)
		}
	}
	k.hidden = genl.Key{}
	return out, nil
}

func (k *fakeKernel) AddServer(x genl.Server) error {
	if k.list[x.Key] != nil {
		return unix.EEXIST
	}
	if x.Scheduler == "nonsense" {
		return unix.ENOENT
	}
	if err := k.change("add server %s", x.Key); err != nil {
		return err
	}
	k.list[x.Key] = &fakeServer{x, map[netip.AddrPort]*genl.Destination{}}
	return nil
}

func (k *fakeKernel) SetServer(x genl.Server) error {
	if k.list[x.Key] == nil {
		return unix.ESRCH
	}
	if err := k.change("set server %s", x.Key); err != nil {
		return err
	}
	k.list[x.Key].Server = x
	return nil
}

func (k *fakeKernel) DeleteServer(key genl.Key) error {
	if k.list[key] == nil {
		return unix.ESRCH
	}
	if err := k.change("delete server %s", key); err != nil {
		return err
	}
	delete(k.list, key)
	return nil
}

func (k *fakeKernel) Destinations(key genl.Key) (out []genl.Destination, err error) {
	if k.list[key] == nil {
		return nil, nil
	}
	for _, d := range k.list[key].destinations {
		out = append(out, *d)
	}
	return out, nil
}

func (k *fakeKernel) AddDestination(key genl.Key, d genl.Destination) error {
	x := k.list[key]
	if x == nil {
		return unix.ESRCH
	}
	if x.destinations[d.At] != nil {
		return unix.EEXIST
	}
	if err := k.change("add destination %s %s", key, d.At); err != nil {
		return err
	}
	x.destinations[d.At] = &d
	return nil
}

func (k *fakeKernel) SetDestination(key genl.Key, d genl.Destination) error {
	x := k.list[key]
	if x == nil {
		return unix.ESRCH
	}
	if x.destinations[d.At] == nil {
		return unix.ENOENT
	}
	if err := k.change("set destination %s %s %d", key, d.At, d.Weight); err != nil {
		return err
	}
	x.destinations[d.At].Weight = d.Weight
	return nil
}

func (k *fakeKernel) DeleteDestination(key genl.Key, at netip.AddrPort) error {
	x := k.list[key]
	if x == nil {
		return unix.ESRCH
	}
	if x.destinations[at] == nil {
		return unix.ENOENT
	}
	if err := k.change("delete destination %s %s", key, at); err != nil {
		return err
	}
	delete(x.destinations, at)
	return nil
}

func (k *fakeKernel) SetTimeouts(t genl.Timeouts) error {
	k.timeouts = t
	return nil
}

func (k *fakeKernel) Close() error { return nil }

// dump lists everything, a line each; destinations of weight 0 only if draining.
func (k *fakeKernel) dump(draining bool) string {
	var lines []string
	for a := range k.addrs {
		lines = append(lines, "address "+a.String())
	}
	for _, x := range k.list {
		lines = append(lines, "-A "+serverText(x.Server))
		for _, d := range x.destinations {
			if d.Weight > 0 || draining {
				lines = append(lines, fmt.Sprintf("-a %s -r %s -w %d", keyText(x.Key), d.At, d.Weight))
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

// fakeDevice is the interface.
type fakeDevice fakeKernel

func (d *fakeDevice) Addresses() (ours, others map[netip.Addr]bool, err error) {
	return maps.Clone(d.addrs), maps.Clone(d.others), nil
}

func (d *fakeDevice) Probe() error { return nil }

func (d *fakeDevice) Close() error { return nil }

func (d *fakeDevice) Make() error {
	if d.addrs == nil {
		d.addrs = map[netip.Addr]bool{}
	}
	return nil
}

func (d *fakeDevice) Add(a netip.Addr) error {
	if d.addrs == nil {
		return unix.ENODEV
	}
	if err := (*fakeKernel)(d).change("add address %s", a); err != nil {
		return err
	}
	d.addrs[a] = true
	return nil
}

func (d *fakeDevice) Await(addrs ...netip.Addr) error {
	for _, a := range addrs {
		if !d.addrs[a] {
			return fmt.Errorf("address %s was not added", a)
		}
	}
	return nil
}

func (d *fakeDevice) Delete(a netip.Addr) error {
	if err := (*fakeKernel)(d).change("delete address %s", a); err != nil {
		return err
	}
	delete(d.addrs, a)
	return nil
}

func (d *fakeDevice) Remove() error {
	if len(d.addrs) == 0 {
		d.addrs = nil
	}
	return nil
}

// fakeGate keeps the State that the table follows.
type fakeGate struct {
	k     *fakeKernel
	known bool
}

func (g *fakeGate) Admit(s *proxy.State, _ func(netip.Addr) bool) (int, []proxy.Rejection, error) {
	if err := g.k.change("admit"); err != nil {
		return 0, nil, err
	}
	var rejected []proxy.Rejection
	for name := range s.Services.All() {
		if g.k.refuseRules == nil {
			break
		}
		if err := g.k.refuseRules(name); err != nil {
			rejected = append(rejected, proxy.Rejection{Name: name, Err: err})
		}
	}
	if len(rejected) > 0 {
		g.known = false
		return 0, rejected, nil
	}
	if !g.known || g.k.gate == nil {
		g.k.gate = s // the whole table is replaced
	}
	g.k.admitted, g.known, g.k.disarmed = s, true, false
	return 0, nil, nil
}

func (g *fakeGate) Retire() (int, error) {
	if err := g.k.change("retire"); err != nil {
		return 0, err
	}
	g.k.gate = g.k.admitted
	return 0, nil
}

func (g *fakeGate) PortID() uint32 { return 1 }

func (g *fakeGate) Probe() error { return nil }

func (g *fakeGate) Forget() { g.known = false }

// Record tells the frontends of the last State that was retired and of the one that was admitted: all that may be served.
func (g *fakeGate) Record() (frontends []proxy.FrontendKey, addrs []netip.Addr, err error) {
	for _, s := range []*proxy.State{g.k.gate, g.k.admitted} {
		if s == nil {
			continue
		}
		for _, service := range s.Services.All() {
			for i := range service.Frontends {
				frontends = append(frontends, service.Key(&service.Frontends[i]))
			}
		}
		addrs = append(addrs, s.Node.NodePorts.Addrs...)
	}
	return frontends, addrs, nil
}

func (g *fakeGate) Intact() (bool, error) { return !g.known || g.k.gate != nil, nil }

func (g *fakeGate) Disarm() error {
	g.known, g.k.disarmed = false, true
	return nil
}

func (g *fakeGate) Cleanup() error {
	g.k.gate, g.k.admitted = nil, nil
	return nil
}

func (g *fakeGate) Close() error { return nil }

// fakeSysctl are settings by name.
type fakeSysctl map[string]string

func (s fakeSysctl) Read(name string) (string, error) { return s[name], nil }

func (s fakeSysctl) Write(name, value string) error {
	s[name] = value
	return nil
}
