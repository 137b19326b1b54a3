package nftables

import (
	"time"

	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// Names of the chains that exist always. The base chains carry names of upstream's base chains: upstream kube-proxy deletes
// chains of these names when it starts, so that going back to it leaves nothing of ours hooked.
const (
	natPrerouting  = "nat-prerouting"
	natOutput      = "nat-output"
	natPostrouting = "nat-postrouting"
	natInput       = "filter-input" // upstream has none of type nat here
	services       = "services"
	doDispatch     = "do-dispatch"
	doReject       = "do-reject"
	learn          = "learn-affinity"
	slot0          = "slot0"
	slot0Cluster   = "slot0-cluster"
)

// Priorities of nat chains (NF_IP_PRI_NAT_DST, NF_IP_PRI_NAT_SRC).
const (
	priorityDstNAT = -100
	prioritySrcNAT = 100
)

// baseChains are all of type nat: the kernel walks them for the first packet of a connection only, so that established flows
// pay nothing for any number of Services. Rejecting and dropping there, before routing, needs kernel 5.9.
func (w writer) baseChains(s *sets) []chain {
	return []chain{
		{name: natPrerouting, hook: &hook{"prerouting", unix.NF_INET_PRE_ROUTING, priorityDstNAT, "dstnat"}, rules: []rule{jump(services)}},
		{name: natOutput, hook: &hook{"output", unix.NF_INET_LOCAL_OUT, priorityDstNAT, "-100"}, rules: []rule{jump(services)}},
		{name: natPostrouting, hook: &hook{"postrouting", unix.NF_INET_POST_ROUTING, prioritySrcNAT, "srcnat"}, rules: []rule{
			join(w.untranslated(), returnPart()),
			jump(learn),
			w.clearPriority(),
			join(w.in(s.hairpin, saddr(w.family), daddr(w.family)), w.masquerade()),
			join(w.unmarked(), returnPart()),
			w.clearMark(), // a mark that stays makes a tunnel's outer packet masqueraded, too
			w.masquerade(),
		}},
		{name: natInput, comment: "endpoints that use the host's network", hook: &hook{"input", unix.NF_INET_LOCAL_IN, prioritySrcNAT, "100"}, rules: []rule{
			join(w.translated(), jump(learn)),
		}},
	}
}

// sharedChains are the chains that do not depend on any Service.
func (w writer) sharedChains(s *sets, n *proxy.Node) []chain {
	return []chain{
		{name: services, comment: "every lookup twice, as it may miss once at the moment of an update", rules: w.servicesRules(s, n)},
		{name: doDispatch, rules: twice(w.vmap(s.dispatch, priorityBits(classBits)))},
		// A reset is not subject to the rate limit of ICMP errors.
		{name: doReject, rules: []rule{w.resetTCP(), w.unreachable()}},
		{name: slot0, comment: "for packets that race with an update", rules: append(twice(w.dnat(s.endpoints, priorityBits(poolBits), slot(1))), gotoChain(doReject))},
		{name: slot0Cluster, rules: append(twice(w.dnat(s.endpoints, priorityBits(numberBits), slot(1))), gotoChain(doReject))},
		{name: learn},
	}
}

// twice repeats rules that end at a miss. An element whose value changes is deleted and added in one transaction. Kernels before 6.17 may find neither
// in a lookup that began just before the transaction took effect and ended just after (they fixed it by starting such a lookup
// again); the packet would leave untranslated, and so would all its retransmits. The second lookup begins after that moment.
func twice(rules ...rule) []rule { return append(rules, rules...) }

// servicesRules finds the frontend of a new connection. The priority is set and dispatched in one rule, which ends at a miss:
// a packet that brought a priority of its own is never dispatched by mistake.
func (w writer) servicesRules(s *sets, n *proxy.Node) []rule {
	f := w.family
	frontend := join(w.setPriorityFrom(s.frontends, daddr(f), l4proto(), dport()), gotoChain(doDispatch))
	nodeport := join(w.setPriorityFrom(s.nodeports, l4proto(), dport()), gotoChain(doDispatch))
	if n.NodePorts.Any {
		nodeport = join(w.toNode(), w.notToLoopback(), nodeport)
	} else {
		nodeport = join(w.in(s.nodePortIPs, daddr(f)), nodeport)
	}
	return append(twice(frontend, nodeport),
		join(w.in(s.clusterIPs, daddr(f)), gotoChain(doReject)),
		join(w.in(s.serviceCIDRs, daddr(f)), w.notToNode(), drop()))
}

// fromPod matches packets that come from a pod; the second result is false if there is no way to tell.
func (w writer) fromPod(s *sets, p *proxy.LocalPods) (part, bool) {
	switch {
	case len(p.Prefixes) > 0:
		return w.in(s.podCIDRs, saddr(w.family)), true
	case p.Interface != "":
		return w.inInterface(p.Interface), true
	case p.InterfacePrefix != "":
		return w.inInterfacePrefix(p.InterfacePrefix), true
	}
	return part{}, false
}

// learnChain remembers the endpoint of a client. The priority holds the Service's number, and the local bit if some frontend of the
// Service uses the local pool. There is a memory for each pool, which must not hold an endpoint that this pool does not have: the pools of a
// Service may differ by more than where endpoints are (topology hints, terminating endpoints). That also keeps a packet which is under way when an
// endpoint goes from being remembered.
func (w writer) learnChain(s *sets, timeout time.Duration) chain {
	f := w.family
	remember := join(w.in(s.memorable, priority(), daddr(f), dport()),
		w.update(s.affinity, timeout, []operand{priority(), saddr(f)}, []operand{daddr(f), dport()}))
	return chain{name: learnName(timeout), rules: []rule{
		remember,
		join(w.priorityHasNot(localBit), returnPart()),
		w.keepPriority(numberBits),
		remember,
	}}
}

// learnRules lead from a translated connection's original destination to the learn chain of its affinity timeout.
func (w writer) learnRules(s *sets, timeout time.Duration) []rule {
	frontends, nodeports := stickySets(timeout)
	f, to := w.family, gotoChain(learnName(timeout))
	return []rule{
		join(w.setPriorityFrom(frontends, originalDaddr(f), l4proto(), originalDport()), to),
		join(w.in(s.nodePortIPs, originalDaddr(f)), w.setPriorityFrom(nodeports, l4proto(), originalDport()), to),
	}
}

func learnName(timeout time.Duration) string {
	frontends, _ := stickySets(timeout)
	return "learn-" + frontends.name
}
