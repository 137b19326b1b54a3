package preflight

import (
	"fmt"
	"slices"
	"strings"

	"turnout/proxy"
	"turnout/proxy/config"
	"turnout/proxy/iptables"
	"turnout/proxy/nftables"
	"turnout/proxy/nftables/survey"
)

// rules is about what is in the kernel now.
func (j *judge) rules() {
	for _, p := range j.now {
		of := ""
		if p.Variant != "" {
			of = fmt.Sprintf(", of iptables-%s,", p.Variant)
		}
		becomes := "they are taken over"
		if p.Mode != j.mode || p.Variant != "" && !j.uses(p.Variant) {
			becomes = fmt.Sprintf("they serve until those of mode %s are there, and are removed then", j.mode)
		}
		j.add(OK, Rules, RulesOfProxy, "", "the kernel has rules of %s in mode %s%s for %s: %s", p.By, p.Mode, of, strings.Join(p.Families, " and "), becomes)
	}
	if len(j.now) == 0 && len(j.facts.Unseen) == 0 {
		j.add(OK, Rules, RulesOfNobody, "", "the kernel has no rules of a proxy")
	}
	if running := j.facts.Running; running != "" {
		what := "it must end before, or when, this one starts"
		if slices.ContainsFunc(j.now, func(p Present) bool { return string(p.Mode) == running && p.By == "Turnout" }) {
			what = "if it is this Turnout, the label of the Node changes its mode; any other must end before, or when, this one starts"
		}
		j.add(OK, Rules, ProxyRuns, "", "a proxy runs in mode %s (http://%s/proxyMode): %s", running, j.facts.RunningAt, what)
	}
	j.bothVariants()
	for _, f := range j.facts.Families {
		j.unreadable(f)
		j.translators(f)
	}
	j.virtualServers()
}

// virtualServers is about those that no proxy is known to have made. kube-proxy's NodePorts are among them, and nothing else tells of these.
func (j *judge) virtualServers() {
	n := j.facts.IPVS.Others
	switch {
	case n == 0:
	case j.mode != config.IPVS && slices.ContainsFunc(j.now, func(p Present) bool { return p.Mode == config.IPVS && p.By == "kube-proxy" }):
		j.add(Warning, Rules, VirtualServers, "delete those that were kube-proxy's NodePorts when the new mode serves: ipvsadm -Ln, ipvsadm --delete-service",
			"%d virtual servers of IPVS are at addresses that kube-ipvs0 does not have: they are left alone, as they may be somebody else's or kube-proxy's NodePorts", n)
	default:
		j.add(OK, Rules, VirtualServers, "", "%d virtual servers of IPVS are at addresses that kube-ipvs0 does not have: they are left alone", n)
	}
}

// uses tells that mode iptables would use a variant, for any family.
func (j *judge) uses(v iptables.Variant) bool {
	return j.mode == config.IPTables && slices.ContainsFunc(j.facts.Programs, func(p Iptables) bool { return p.Err == nil && p.Choice.Variant == v })
}

// bothVariants is about a proxy's rules in iptables-nft and in iptables-legacy: packets meet both.
func (j *judge) bothVariants() {
	variants := map[string]iptables.Variant{}
	both := false
	for _, p := range j.now {
		for _, f := range p.Families {
			if p.Mode == config.IPTables {
				both = both || variants[f] != "" && variants[f] != p.Variant
				variants[f] = p.Variant
			}
		}
	}
	if !both {
		return
	}
	text := "both iptables-nft and iptables-legacy have rules of a proxy, and packets meet those of both"
	remedy := "none before Turnout starts, which removes both; turnout cleanup --mode iptables does so without it"
	if j.mode == config.IPTables {
		parts := []string{text}
		for _, p := range j.facts.Programs {
			if p.Err == nil {
				parts = append(parts, fmt.Sprintf("those of %s are used for %s (%s)", p.Choice.Variant, p.Family, p.Choice.Reason))
			}
		}
		text = strings.Join(parts, "; ")
		remedy = "none before Turnout starts, which removes those of the other variant; have kubelet and the CNI plugin use the same variant as the proxy"
	}
	j.add(Warning, Rules, BothVariants, remedy, "%s", text)
}

// unreadable is about rules that keep the programs of iptables from reading their tables.
func (j *judge) unreadable(f proxy.Family) {
	byTable := map[string][]string{}
	for _, r := range j.facts.Strange[f] {
		byTable[r.Table] = append(byTable[r.Table], r.String())
	}
	for _, table := range tablesOfIptables {
		rules := byTable[table]
		if len(rules) == 0 {
			continue
		}
		level, who, what := OK, "programs of iptables", fmt.Sprintf("which does not matter to mode %s, but to other programs that run them, such as kube-router and Kilo", j.mode)
		if j.uses(iptables.NFT) {
			level, who, what = Warning, j.version(f), "mode iptables works nevertheless, but iptables -S and iptables-save do not, nor do programs that rely on them"
		}
		more := ""
		if n := len(rules); n > listed {
			rules, more = rules[:listed], fmt.Sprintf(" and %d more", n-listed)
		}
		j.add(level, Rules, TableUnreadable, "have the program that wrote the rule keep it in a table of its own; nft -a list table "+nftFamily(f)+" "+table+" shows it",
			"%s cannot read table %s for %s, %s: %s%s", who, table, f, what, strings.Join(rules, ", "), more)
	}
}

// version names the programs of a family with their version, such as "iptables 1.8.9".
func (j *judge) version(f proxy.Family) string {
	name := "iptables"
	if f == proxy.IPv6 {
		name = "ip6tables"
	}
	for _, p := range j.facts.Programs {
		if p.Family == f && p.Err == nil {
			return name + " " + p.Choice.Version
		}
	}
	return name
}

// listed is how many rules a finding names.
const listed = 5

func nftFamily(f proxy.Family) string {
	if f == proxy.IPv6 {
		return "ip6"
	}
	return "ip"
}

// translators is about others who change the destination of packets: whoever is first decides.
func (j *judge) translators(f proxy.Family) {
	for _, t := range j.facts.Tables[f] {
		if len(t.Translating) == 0 || len(t.Hooks) == 0 || t.Name == nftables.TableName || t.Name == nftables.GateTable || t.Family == "inet" && f != j.facts.Families[0] {
			continue
		}
		first := slices.MinFunc(t.Hooks, func(a, b survey.Hook) int { return a.Priority - b.Priority }).Priority
		j.translator(fmt.Sprintf("table %s (%s)", t, chainNames(t.Translating)), first)
	}
	for _, t := range j.facts.Legacy[f] {
		if chains := t.Translating(survey.Targets); t.Name == "nat" && len(chains) > 0 {
			j.translator(fmt.Sprintf("table nat of iptables-legacy for %s (%s)", f, chainNames(chains)), ownPriority)
		}
	}
}

// ownPriority is that of the chains by which each of the modes changes the destination of packets.
const ownPriority = -100

func (j *judge) translator(where string, priority int) {
	switch {
	case priority < ownPriority:
		j.add(Warning, Rules, Translator, "see that its rules match no address or port of a Service: nft list ruleset",
			"%s changes the destination of packets before Services do (priority %d, Services have %d)", where, priority, ownPriority)
	case priority == ownPriority:
		j.add(OK, Rules, Translator, "", "%s changes the destination of packets, too, at the same priority as Services: where both match, one of them decides; published ports (hostPort) should not be NodePorts", where)
	default:
		j.add(OK, Rules, Translator, "", "%s changes the destination of packets behind Services (priority %d)", where, priority)
	}
}

func chainNames(names []string) string {
	names = slices.Sorted(slices.Values(names))
	more := ""
	if n := len(names); n > listed {
		names, more = names[:listed], fmt.Sprintf(" and %d more", n-listed)
	}
	if len(names) == 1 && more == "" {
		return "chain " + names[0]
	}
	return "chains " + strings.Join(names, ", ") + more
}
