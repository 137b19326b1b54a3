package nftables

import (
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// GateTable is the name of the table that a Gate keeps, in either family.
const GateTable = "kube-proxy-ipvs"

// gateSets are the sets of a Gate's table.
type gateSets struct {
	frontends, nodeports, dispatch, serviceIPs, hairpin, nodePortIPs, serviceCIDRs, podCIDRs, allowed *set
}

func newGateSets() *gateSets {
	s := newSets(capacity{})
	tuple := []datatype{typeAddr, typeProto, typePort}
	return &gateSets{
		frontends:   &set{name: "frontends", comment: "class of each ClusterIP, external and load-balancer IP", key: tuple, value: []datatype{typeClass}},
		nodeports:   &set{name: "nodeports", comment: "class of each NodePort", key: tuple[1:], value: []datatype{typeClass}},
		dispatch:    s.dispatch,
		serviceIPs:  &set{name: "service-ips", comment: "addresses of Services: undefined ports are rejected", key: tuple[:1]},
		hairpin:     s.hairpin,
		nodePortIPs: s.nodePortIPs, serviceCIDRs: s.serviceCIDRs, podCIDRs: s.podCIDRs, allowed: s.allowed,
	}
}

func (s *gateSets) all() []*set {
	return []*set{s.serviceCIDRs, s.podCIDRs, s.allowed, s.frontends, s.nodeports, s.dispatch, s.serviceIPs, s.hairpin, s.nodePortIPs}
}

// A gateClass is a way of treating connections that any number of frontends share.
type gateClass struct {
	actions    [3]proxy.Action // without pools, which IPVS knows
	restricted bool
}

func gateClassOf(f *proxy.Frontend) gateClass {
	c := gateClass{restricted: f.AllowedSources != nil}
	for o, a := range f.Actions {
		c.actions[o] = proxy.Action{Verdict: a.Verdict, Masquerade: a.Masquerade && a.Verdict == proxy.Forward}
	}
	return c
}

// number is the class as the packet's priority has it. It means the same to every process: a packet may be in rules of the one before when this one makes the table anew.
func (c gateClass) number() uint32 {
	n := uint32(1) // 0 is the priority of a packet that has none
	if c.restricted {
		n |= 2
	}
	for i, a := range c.actions {
		word := uint32(a.Verdict) + 1 // reject, drop
		if a.Verdict == proxy.Forward {
			word = 0
			if a.Masquerade {
				word = 1
			}
		}
		n |= word << (2 + 2*i)
	}
	return n
}

// name is that of the class's chain: accept, masquerade_unless_pod_accept, restricted_drop.
func (c gateClass) name() string {
	word := func(a proxy.Action) string {
		switch {
		case a.Verdict != proxy.Forward:
			return a.Verdict.String()
		case a.Masquerade:
			return "masquerade"
		}
		return "accept"
	}
	pod, node, other := c.actions[proxy.FromPod], c.actions[proxy.FromNode], c.actions[proxy.FromElsewhere]
	parts := make([]string, 0, 4)
	if c.restricted {
		parts = append(parts, "restricted")
	}
	parts = append(parts, word(other))
	if pod != node || pod != other {
		parts = append(parts, "pod", word(pod))
	}
	if node != other {
		parts = append(parts, "node", word(node))
	}
	return strings.Join(parts, "_")
}

// gateBaseChains meet the first packet of a connection before IPVS does, which takes connections in hooks right behind these (input and
// output), and once more when IPVS has chosen the endpoint.
func (w writer) gateBaseChains(s *gateSets) []chain {
	return []chain{
		{name: natPrerouting, hook: &hook{"prerouting", unix.NF_INET_PRE_ROUTING, priorityDstNAT, "dstnat"}, rules: []rule{jump(services)}},
		{name: natOutput, hook: &hook{"output", unix.NF_INET_LOCAL_OUT, priorityDstNAT, "-100"}, rules: []rule{jump(services)}},
		{name: natPostrouting, hook: &hook{"postrouting", unix.NF_INET_POST_ROUTING, prioritySrcNAT, "srcnat"}, rules: []rule{
			join(w.toLoopback(), returnPart()), // an endpoint on the node itself answers to any of the node's addresses
			join(w.in(s.hairpin, saddr(w.family), daddr(w.family)), w.masquerade()),
			// A process on the node that connects to a Service's address without choosing a source has that very address: it is local.
			join(w.in(s.serviceIPs, saddr(w.family)), w.masquerade()),
			join(w.unmarked(), returnPart()),
			w.clearMark(), // a mark that stays makes a tunnel's outer packet masqueraded, too
			w.masquerade(),
		}},
	}
}

// gateSharedChains lead from a frontend to its class by the packet's priority, as in mode nftables, and not by a map of verdicts: the kernel follows each verdict of a
// map whenever one is added to it, which with thousands of them takes longer than all else.
func (w writer) gateSharedChains(s *gateSets) []chain {
	f := w.family
	frontend := join(w.setPriorityFrom(s.frontends, daddr(f), l4proto(), dport()), gotoChain(doDispatch))
	nodeport := join(w.in(s.nodePortIPs, daddr(f)), w.setPriorityFrom(s.nodeports, l4proto(), dport()), gotoChain(doDispatch))
	return []chain{
		{name: services, comment: "every lookup twice, as it may miss once at the moment of an update", rules: append(twice(frontend, nodeport),
			// New ones only: what rejects a process on the node may itself be sent to a Service's address, and is related.
			join(w.in(s.serviceIPs, daddr(f)), w.isNew(), gotoChain(doReject)),
			join(w.in(s.serviceCIDRs, daddr(f)), w.notToNode(), drop()))},
		{name: doDispatch, rules: twice(w.vmap(s.dispatch, priority()))},
		{name: doReject, rules: []rule{w.resetTCP(), w.unreachable()}},
	}
}

// gateClassChain is the class's chain. What it lets through goes on to IPVS.
func (w writer) gateClassChain(s *gateSets, n *proxy.Node, c gateClass) chain {
	f, out := w.family, chain{name: c.name(), rules: []rule{w.clearPriority()}}
	if c.restricted {
		out.rules = append(out.rules, join(w.notIn(s.allowed, daddr(f), l4proto(), dport(), saddr(f)), drop()))
	}
	pod, node, other := c.actions[proxy.FromPod], c.actions[proxy.FromNode], c.actions[proxy.FromElsewhere]
	if match, ok := w.fromPod(&sets{podCIDRs: s.podCIDRs}, &n.LocalPods); ok && (pod != node || pod != other) {
		out.rules = append(out.rules, w.admit(pod, match)...)
	}
	if node != other {
		out.rules = append(out.rules, w.admit(node, w.fromNode())...)
	}
	out.rules = append(out.rules, w.admit(other)...)
	return out
}

// admit carries out an action on the packets that the parts in front match.
func (w writer) admit(a proxy.Action, match ...part) []rule {
	switch {
	case a.Verdict == proxy.Drop:
		return []rule{join(append(match, drop())...)}
	case a.Verdict == proxy.Reject:
		return []rule{join(append(match, gotoChain(doReject))...)}
	case a.Masquerade:
		return []rule{join(append(match, w.setMark(), acceptPart())...)}
	}
	return []rule{join(append(match, acceptPart())...)}
}

// nft: accept
//
// It ends this chain's walk alone: the kernel goes on to the next base chain of the hook.
func acceptPart() part { return verdict("accept", expr.VerdictAccept, "") }

// nft: ct state new
func (w writer) isNew() part {
	const bit = 1 << 3 // NF_CT_STATE_BIT(IP_CT_NEW)
	return part{"ct state new", slices.Concat(library(&expr.Ct{Key: expr.CtKeySTATE, Register: firstRegister}), bitwise(firstRegister, bit, 0),
		library(&expr.Cmp{Op: expr.CmpOpNeq, Register: firstRegister, Data: host(0)}))}
}

// nft: oifname "lo"
func (w writer) toLoopback() part {
	data := make([]byte, unix.IFNAMSIZ)
	copy(data, "lo")
	return part{`oifname "lo"`, library(&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: firstRegister},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: data})}
}
