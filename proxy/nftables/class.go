package nftables

import (
	"strconv"
	"strings"

	"turnout/proxy"
)

// A class is a way of treating connections that any number of frontends share: what is done for each origin, out of how many
// endpoints, and whether sources are restricted or clients remembered.
type class struct {
	actions    [3]proxy.Action
	endpoints  [2]int // of each pool that actions use, else 0
	sticky     bool
	restricted bool
}

// classOf returns the class of one of a Service's frontends.
func classOf(s *proxy.Service, f *proxy.Frontend) class {
	c := class{actions: f.Actions, restricted: f.AllowedSources != nil}
	for _, a := range f.Actions {
		if a.Verdict == proxy.Forward {
			c.endpoints[a.Pool] = len(s.Pool(a.Pool))
			c.sticky = s.Affinity > 0
		}
	}
	return c
}

// usesLocal tells that the values of the class's frontends carry the local bit.
func (c *class) usesLocal() bool { return c.endpoints[proxy.Local] > 0 }

// name is unique to the class, so that a restarted process finds the numbers of classes again by the names of their chains.
//
// For example: cluster-3 (ClusterIP without masquerading), cluster-3_else_cluster-3-masq (masqueraded unless from a pod),
// sticky_from-node_cluster-3-masq_else_local-1.
func (c *class) name() string {
	var b strings.Builder
	if c.restricted {
		b.WriteString("restricted_")
	}
	if c.sticky {
		b.WriteString("sticky_")
	}
	pod, node, other := c.action(proxy.FromPod), c.action(proxy.FromNode), c.action(proxy.FromElsewhere)
	if pod != node || pod != other {
		b.WriteString("pod_" + pod + "_")
	}
	if node != other {
		b.WriteString("node_" + node + "_")
	}
	if b.Len() > 0 && (pod != node || pod != other) {
		b.WriteString("else_")
	}
	b.WriteString(other)
	return b.String()
}

func (c *class) action(o proxy.Origin) string {
	a := c.actions[o]
	if a.Verdict != proxy.Forward {
		return a.Verdict.String()
	}
	s := a.Pool.String() + "-" + strconv.Itoa(c.endpoints[a.Pool])
	if a.Masquerade {
		s += "-masq"
	}
	return s
}

// pick names the chain that chooses an endpoint for an action. Values with the local bit set lead to the local pool as they are;
// the cluster pool of such a frontend is reached by masking the bit.
func (c *class) pick(a proxy.Action) picker {
	return picker{endpoints: c.endpoints[a.Pool], cluster: a.Pool == proxy.Cluster && c.usesLocal(), sticky: c.sticky}
}

// pickers lists the pickers that the class's chain leads to.
func (c *class) pickers() []picker {
	var out []picker
	for _, a := range c.actions {
		if a.Verdict == proxy.Forward {
			out = append(out, c.pick(a))
		}
	}
	return out
}

// chain is the class's chain.
func (w writer) classChain(s *sets, n *proxy.Node, c *class) chain {
	f := w.family
	out := chain{name: c.name()}
	if c.restricted {
		out.rules = append(out.rules, join(w.notIn(s.allowed, daddr(f), l4proto(), dport(), saddr(f)), drop()))
	}
	pod, node, other := c.actions[proxy.FromPod], c.actions[proxy.FromNode], c.actions[proxy.FromElsewhere]
	if match, ok := w.fromPod(s, &n.LocalPods); ok && (pod != node || pod != other) {
		out.rules = append(out.rules, w.act(c, pod, match))
	}
	if node != other {
		out.rules = append(out.rules, w.act(c, node, w.fromNode()))
	}
	out.rules = append(out.rules, w.act(c, other))
	return out
}

// act carries out an action on the packets that the parts in front match.
func (w writer) act(c *class, a proxy.Action, match ...part) rule {
	switch {
	case a.Verdict == proxy.Drop:
		match = append(match, drop())
	case a.Verdict == proxy.Reject:
		match = append(match, gotoChain(doReject))
	case a.Masquerade:
		match = append(match, w.setMark(), gotoChain(c.pick(a).name()))
	default:
		match = append(match, gotoChain(c.pick(a).name()))
	}
	return join(match...)
}

// A picker is a chain that sends a connection to one of a number of endpoints, each with the same probability.
type picker struct {
	endpoints int
	cluster   bool // masks the local bit
	sticky    bool // first looks whether the client is known
}

func (p picker) name() string {
	name := "pick"
	if p.sticky {
		name = "stick"
	}
	if p.cluster {
		name += "-cluster"
	}
	return name + "-" + strconv.Itoa(p.endpoints)
}

// chains returns the picker's chain and those that it leads to, in the order in which they must be made.
func (w writer) pickerChains(s *sets, p picker) []chain {
	bits, fallback := uint32(poolBits), slot0
	if p.cluster {
		bits, fallback = numberBits, slot0Cluster
	}
	if p.sticky {
		plain := picker{endpoints: p.endpoints, cluster: p.cluster}
		return append(w.pickerChains(s, plain), chain{name: p.name(), rules: []rule{
			w.dnat(s.affinity, priorityBits(bits), saddr(w.family)),
			gotoChain(plain.name()),
		}})
	}
	c := chain{name: p.name()}
	if p.endpoints > 1 {
		c.rules = append(c.rules, w.dnat(s.endpoints, priorityBits(bits), slot(p.endpoints)))
	}
	// Slot 0 exists in every generation of a Service that has endpoints: a packet that found its number before an update and the
	// slot gone after it is still forwarded. Without this its SYN, and all retransmits, would be lost.
	c.rules = append(c.rules, gotoChain(fallback))
	return []chain{c}
}
