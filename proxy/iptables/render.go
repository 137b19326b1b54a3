package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// A renderer turns Services into rules. It is a pure function of what it is made with and of the Service: the same Service gives the same text.
type renderer struct {
	family proxy.Family
	node   *proxy.Node
	// localhost serves NodePorts on loopback addresses, too; IPv4 only.
	localhost bool
	// keepInvalid lets packets pass that connection tracking cannot place.
	keepInvalid bool
	count       bool // packets
	pods        []match
	// onlyPods tells that every packet is taken for one of a pod.
	onlyPods bool
}

// match is what a rule says about where a packet comes from. Its text ends with a blank, or is empty.
type match struct{ is, not string }

func newRenderer(o *Options, n *proxy.Node) *renderer {
	r := &renderer{family: o.Family, node: n, localhost: o.LocalhostNodePorts && o.Family == proxy.IPv4, keepInvalid: o.KeepInvalid, count: o.count}
	switch l := &n.LocalPods; {
	case slices.ContainsFunc(l.Prefixes, func(p netip.Prefix) bool { return p.Bits() == 0 }):
		r.onlyPods = true // iptables-nft refuses a match for all other addresses
	case len(l.Prefixes) > 0:
		for _, p := range l.Prefixes {
			r.pods = append(r.pods, match{"-s " + p.String() + " ", "! -s " + p.String() + " "})
		}
	case l.Interface != "":
		r.pods = []match{{"-i " + l.Interface + " ", "! -i " + l.Interface + " "}}
	case len(l.InterfacePrefix) == unix.IFNAMSIZ-1: // as long as a name can be
		r.pods = []match{{"-i " + l.InterfacePrefix + " ", "! -i " + l.InterfacePrefix + " "}}
	case l.InterfacePrefix != "":
		r.pods = []match{{"-i " + l.InterfacePrefix + "+ ", "! -i " + l.InterfacePrefix + "+ "}}
	}
	return r
}

const fromNode = "-m addrtype --src-type LOCAL "

// chain is one of a Service's own chains, with its rules.
type chain struct {
	name  string
	rules []string
}

// part is all that one Service makes.
type part struct {
	chains []chain // of table nat
	lines  [sharedChains][]string
	// clusterIPs may be those of other Services, too: for them, rules are made once.
	clusterIPs []netip.Addr
}

// writer makes the part of one Service.
type writer struct {
	*renderer
	part
	service  *proxy.Service
	names    naming
	entries  map[[3]proxy.Action]string
	sources  int                     // chains for allowed sources so far
	marks    map[proxy.Pool][]string // rules at the head of the pools' chains
	made     map[netip.AddrPort]bool // endpoints that have a chain
	protocol string
}

func (r *renderer) service(s *proxy.Service) *part {
	p := strings.ToLower(s.Name.Protocol.String())
	w := &writer{renderer: r, service: s, names: namingOf(s.Name), entries: map[[3]proxy.Action]string{},
		marks: map[proxy.Pool][]string{}, made: map[netip.AddrPort]bool{}, protocol: "-p " + p + " -m " + p + " "}
	for i := range s.Frontends {
		w.frontend(&s.Frontends[i])
	}
	for _, p := range [...]proxy.Pool{proxy.Cluster, proxy.Local} {
		w.pool(p)
	}
	return &w.part
}

func (w *writer) frontend(f *proxy.Frontend) {
	if f.Kind == proxy.ClusterIP {
		w.clusterIPs = append(w.clusterIPs, f.Addr)
	}
	w.refuse(f)
	target := w.entry(f)
	if target == "" || f.AllowedSources != nil && len(f.AllowedSources) == 0 {
		return
	}
	if f.AllowedSources != nil {
		target = w.restrict(f, target)
	}
	rule := w.port(f) + w.comment(f.Kind) + "-j " + target
	if f.Kind == proxy.NodePort {
		if w.localhost && w.count {
			w.add(natNodePorts, "-d "+w.loopback()+" "+w.port(f)+w.comment(f.Kind)+countWith(localhostAccepted)+"-j "+target)
		}
		w.add(natNodePorts, rule)
		return
	}
	w.add(natServices, "-d "+host(f.Addr)+" "+rule)
}

func (w *writer) add(c sharedChain, rule string) { w.lines[c] = append(w.lines[c], rule) }

func (w *writer) port(f *proxy.Frontend) string {
	return w.protocol + "--dport " + strconv.Itoa(int(f.Port)) + " "
}

// comment names the Service port, for who reads the rules.
func (w *writer) comment(k proxy.Kind) string {
	name := w.service.Name.ServiceName.String()
	if w.service.Name.Port != "" {
		name += ":" + w.service.Name.Port
	}
	return "-m comment --comment " + quote(name+" "+k.String()) + " "
}

// quote makes an argument of a text; what would need escaping, which no name of an API object has, is left out. The kernel takes 255 bytes.
func quote(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return -1
		}
		return r
	}, s)
	return `"` + s[:min(len(s), 255)] + `"`
}

// entry returns the chain that connections to a frontend begin in, "" if none of them is forwarded.
func (w *writer) entry(f *proxy.Frontend) string {
	if !slices.ContainsFunc(f.Actions[:], func(a proxy.Action) bool { return a.Verdict == proxy.Forward }) {
		return ""
	}
	if pool, ok := w.direct(f); ok {
		return pool
	}
	if name, ok := w.entries[f.Actions]; ok {
		return name
	}
	further := ""
	if n := len(w.entries); n > 0 {
		further = fmt.Sprintf(" entry %d", n)
	}
	name := w.names.chain(entryPrefix, further)
	w.entries[f.Actions] = name
	w.chains = append(w.chains, chain{name, w.entryRules(f.Actions)})
	return name
}

// direct finds that a ClusterIP needs no chain of its own before that of a pool: if one rule there can tell who is masqueraded.
func (w *writer) direct(f *proxy.Frontend) (poolChain string, ok bool) {
	a := w.actions(f.Actions)
	node, other := a[proxy.FromNode], a[proxy.FromElsewhere]
	for _, x := range a {
		if x.Verdict != proxy.Forward || x.Pool != other.Pool {
			return "", false
		}
	}
	if f.Kind != proxy.ClusterIP || node != other {
		return "", false
	}
	mark, to := "", "-d "+host(f.Addr)+" "+w.port(f)
	switch pod := a[proxy.FromPod]; {
	case pod == other && other.Masquerade:
		mark = to
	case pod == other:
	case len(w.pods) > 1:
		return "", false
	case pod.Masquerade:
		mark = w.pods[0].is + to
	default:
		mark = w.pods[0].not + to
	}
	if mark != "" {
		w.marks[other.Pool] = append(w.marks[other.Pool], mark+"-j "+markChain)
	}
	return w.names.pool(other.Pool), true
}

// actions are those that are possible: where pods cannot be told, none is from a pod.
func (w *writer) actions(a [3]proxy.Action) [3]proxy.Action {
	switch {
	case w.onlyPods:
		a[proxy.FromNode], a[proxy.FromElsewhere] = a[proxy.FromPod], a[proxy.FromPod]
	case len(w.pods) == 0:
		a[proxy.FromPod] = a[proxy.FromElsewhere]
	}
	return a
}

// entryRules ask where a connection comes from: a pod, the node, elsewhere.
func (w *writer) entryRules(actions [3]proxy.Action) (out []string) {
	a := w.actions(actions)
	pod, node, other := a[proxy.FromPod], a[proxy.FromNode], a[proxy.FromElsewhere]
	if pod != node || pod != other {
		for _, m := range w.pods {
			out = append(out, w.act(m.is, pod)...)
		}
	}
	if node != other {
		out = append(out, w.act(fromNode, node)...)
	}
	return append(out, w.act("", other)...)
}

// act are the rules for connections that match. Those that are not forwarded stay as they are, which table filter knows.
func (w *writer) act(match string, a proxy.Action) []string {
	if a.Verdict != proxy.Forward {
		return []string{match + "-j ACCEPT"}
	}
	forward := match + "-j " + w.names.pool(a.Pool)
	if a.Masquerade {
		return []string{match + "-j " + markChain, forward}
	}
	return []string{forward}
}

// restrict makes the chain that lets only allowed sources pass to another.
func (w *writer) restrict(f *proxy.Frontend, target string) string {
	further := ""
	if w.sources > 0 {
		further = fmt.Sprintf(" sources %d", w.sources)
	}
	w.sources++
	c := chain{name: w.names.chain(sourcesPrefix, further)}
	for _, p := range f.AllowedSources {
		c.rules = append(c.rules, "-s "+p.String()+" -j "+target)
	}
	w.chains = append(w.chains, c)
	return c.name
}

// pool makes the chain that chooses an endpoint, and those of the endpoints.
func (w *writer) pool(p proxy.Pool) {
	endpoints := w.service.Pool(p)
	if len(endpoints) == 0 {
		return
	}
	c := chain{name: w.names.pool(p), rules: w.marks[p]}
	names := make([]string, len(endpoints))
	for i := range endpoints {
		names[i] = w.names.endpoint(&endpoints[i])
		w.endpoint(names[i], &endpoints[i])
	}
	if w.service.Affinity > 0 {
		for _, n := range names {
			c.rules = append(c.rules, fmt.Sprintf("-m recent --name %s --rcheck --seconds %d --reap -j %s", n, int64(w.service.Affinity.Seconds()), n))
		}
	}
	for i, n := range names {
		if left := len(names) - i; left > 1 {
			n = "-m statistic --mode random --probability " + strconv.FormatFloat(1/float64(left), 'f', 11, 64) + " -j " + n
		} else {
			n = "-j " + n
		}
		c.rules = append(c.rules, n)
	}
	w.chains = append(w.chains, c)
}

// endpoint makes an endpoint's chain, which both pools share.
func (w *writer) endpoint(name string, e *proxy.Endpoint) {
	if w.made[e.Addr] {
		return
	}
	w.made[e.Addr] = true
	c := chain{name: name}
	if e.Local { // one that reaches itself would answer itself directly, and refuse the answer
		c.rules = append(c.rules, "-s "+host(e.Addr.Addr())+" -j "+markChain)
	}
	learn := ""
	if w.service.Affinity > 0 {
		learn = "-m recent --name " + name + " --set "
	}
	c.rules = append(c.rules, learn+w.protocol+"-j DNAT --to-destination "+e.Addr.String())
	w.chains = append(w.chains, c)
}

// host is an address as a prefix, as the kernel lists it.
func host(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }
