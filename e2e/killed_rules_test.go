package e2e

import (
	"fmt"
	"maps"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"turnout/proxy"
)

// A routing is where connections are led, as the rules of one mode say it for one family: from an address with protocol and port, such as
// "10.96.0.1 tcp 80", or from a NodePort, "nodeport tcp 30003", to endpoints. What is rejected is not in it. Nil is a mode without rules.
type routing map[string][]string

func (r routing) add(from string, to ...string) {
	for _, e := range to {
		if !slices.Contains(r[from], e) {
			r[from] = append(r[from], e)
		}
	}
	slices.Sort(r[from])
}

// same tells that two routings lead to the same endpoints.
func (r routing) same(o routing) bool {
	return (r == nil) == (o == nil) && maps.EqualFunc(r, o, slices.Equal[[]string])
}

// place is where a routing stands.
type place struct {
	mode   string
	family proxy.Family
}

// wanted is the routing that the manifests ask for. It knows the Services that this package's tests make: of policy Cluster, and with
// endpoints that are ready.
func (c *cluster) wanted(f proxy.Family) routing {
	endpoints := map[string][]string{}
	for _, o := range c.objects {
		if s, ok := o.(*discovery.EndpointSlice); ok && string(s.AddressType) == f.String() {
			for _, e := range s.Endpoints {
				to := netip.AddrPortFrom(netip.MustParseAddr(e.Addresses[0]), endpointPort).String()
				endpoints[s.Labels[discovery.LabelServiceName]] = append(endpoints[s.Labels[discovery.LabelServiceName]], to)
			}
		}
	}
	out := routing{}
	for _, o := range c.objects {
		s, ok := o.(*v1.Service)
		if !ok {
			continue
		}
		addrs := append(slices.Clone(s.Spec.ClusterIPs), s.Spec.ExternalIPs...)
		for _, i := range s.Status.LoadBalancer.Ingress {
			addrs = append(addrs, i.IP)
		}
		for _, p := range s.Spec.Ports {
			protocol := strings.ToLower(string(p.Protocol))
			for _, a := range addrs {
				if a := netip.MustParseAddr(a); proxy.FamilyOf(a) == f {
					out.add(fmt.Sprintf("%s %s %d", a, protocol, p.Port), endpoints[s.Name]...)
				}
			}
			out.add(fmt.Sprintf("nodeport %s %d", protocol, p.NodePort), endpoints[s.Name]...)
		}
	}
	return out
}

// output runs a command on the node and returns what it writes, without its warnings.
func (c *cluster) output(name string, args ...string) (string, error) {
	var out, warnings strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &warnings
	if err := c.Node().Start(cmd); err != nil {
		c.t.Fatalf("start %s: %v", cmd, err)
	}
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", cmd, err, warnings.String())
	}
	return out.String(), nil
}

// routings reads from the kernel what each mode says. A mode whose rules lead to nothing, or are there in part, is an error.
func (c *cluster) routings() (map[place]routing, error) {
	out := map[place]routing{}
	for _, f := range proxy.Families {
		family, program := "ip", "iptables-"
		if f == proxy.IPv6 {
			family, program = "ip6", "ip6tables-"
		}
		// All at once: a running proxy may be about to delete the table.
		text, err := c.output("nft", "list", "ruleset", family)
		if err != nil {
			return nil, err
		}
		if table := tableOf(text, "table "+family+" kube-proxy {\n"); table != "" {
			if out[place{"nftables", f}], err = parseTable(table); err != nil {
				return nil, fmt.Errorf("%s: %w", f, err)
			}
		}
		for _, variant := range []string{"nft", "legacy"} {
			text, err := c.output(program+variant+"-save", "-t", "nat")
			if err != nil && variant == "legacy" {
				continue // there is no such table, and to read it would make it
			}
			var r routing
			if err == nil {
				r, err = parseChains(text)
			}
			if err != nil {
				return nil, fmt.Errorf("%s%s: %w", program, variant, err)
			}
			if r != nil {
				out[place{"iptables-" + variant, f}] = r
			}
		}
	}
	return out, nil
}

var (
	routedFrontend = regexp.MustCompile(`(\S+) \. (tcp|udp|sctp) \. (\d+) comment "[^"]*" : ([0-9a-f]+):([0-9a-f]+)`)
	routedNodePort = regexp.MustCompile(`(?:\{|^)\s*(tcp|udp|sctp) \. (\d+) comment "[^"]*" : ([0-9a-f]+):([0-9a-f]+)`)
	routedEndpoint = regexp.MustCompile(`([0-9a-f]+):([0-9a-f]+) \. \d+ : (\S+) \. (\d+)`)
	routedClass    = regexp.MustCompile(`([0-9a-f]+):([0-9a-f]+) : goto (\S+)`)
)

// classid is a number as nft shows it, in two parts.
func classid(major, minor string) uint64 {
	a, _ := strconv.ParseUint(major, 16, 16) // the expressions match nothing else
	b, _ := strconv.ParseUint(minor, 16, 16)
	return a<<16 | b
}

// tableOf returns the part of a ruleset that begins with a heading, "" if there is none.
func tableOf(ruleset, heading string) string {
	_, table, found := strings.Cut(ruleset, heading)
	if !found {
		return ""
	}
	table, _, _ = strings.Cut(table, "\n}\n")
	return heading + table
}

// parseTable reads the table of mode nftables, whose layout proxy/nftables/README.md tells. A table that no new connection comes to means nothing.
func parseTable(text string) (routing, error) {
	const number = 1<<20 - 1 // of a Service; above it is the class
	if !strings.Contains(text, " hook prerouting ") && !strings.Contains(text, " hook output ") {
		return nil, nil // on its way out: no new connection comes to it
	}
	if strings.Count(text, " hook ") != 4 || !strings.Contains(text, `comment "turnout layout`) {
		return nil, fmt.Errorf("the table is not complete:\n%s", text)
	}
	endpoints, verdicts := map[uint64][]string{}, map[uint64]string{}
	for _, m := range routedClass.FindAllStringSubmatch(text, -1) {
		verdicts[classid(m[1], m[2])] = strings.TrimSuffix(m[3], ",")
	}
	for _, m := range routedEndpoint.FindAllStringSubmatch(text, -1) {
		endpoints[classid(m[1], m[2])] = append(endpoints[classid(m[1], m[2])], toEndpoint(m[3], m[4]))
	}
	out := routing{}
	lead := func(from string, value uint64) error {
		verdict, to := verdicts[value&^number], endpoints[value&number]
		switch {
		case verdict == "reject":
		case verdict == "" || len(to) == 0:
			return fmt.Errorf("%s leads to verdict %q and endpoints %v:\n%s", from, verdict, to, text)
		default:
			out.add(from, to...)
		}
		return nil
	}
	for _, m := range routedFrontend.FindAllStringSubmatch(text, -1) {
		if err := lead(fmt.Sprintf("%s %s %s", m[1], m[2], m[3]), classid(m[4], m[5])); err != nil {
			return nil, err
		}
	}
	for line := range strings.Lines(text) {
		if m := routedNodePort.FindStringSubmatch(line); m != nil {
			if err := lead(fmt.Sprintf("nodeport %s %s", m[1], m[2]), classid(m[3], m[4])); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func toEndpoint(address, port string) string {
	n, _ := strconv.ParseUint(port, 10, 16) // the expression matches nothing else
	return netip.AddrPortFrom(netip.MustParseAddr(address), uint16(n)).String()
}

// A natRule is what matters here of a rule of iptables' table nat.
type natRule struct{ addr, protocol, port, jump, to string }

// natRules reads the rules of each chain from what iptables-save shows.
func natRules(text string) map[string][]natRule {
	out := map[string][]natRule{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[0] != "-A" {
			continue
		}
		var r natRule
		for i, f := range fields[:len(fields)-1] {
			switch value := fields[i+1]; f {
			case "-d":
				r.addr, _, _ = strings.Cut(value, "/")
			case "-p":
				r.protocol = value
			case "--dport":
				r.port = value
			case "-j", "-g":
				r.jump = value
			case "--to-destination":
				r.to = value
			}
		}
		out[fields[1]] = append(out[fields[1]], r)
	}
	return out
}

// jumps counts the rules of a chain that lead to another.
func jumps(rules []natRule, to string) (n int) {
	for _, r := range rules {
		if r.jump == to {
			n++
		}
	}
	return n
}

// parseChains reads table nat of mode iptables, as iptables-save shows it. Chains to which nothing leads mean nothing.
func parseChains(text string) (routing, error) {
	rules := natRules(text)
	in, out := jumps(rules["PREROUTING"], "KUBE-SERVICES"), jumps(rules["OUTPUT"], "KUBE-SERVICES")
	switch {
	case in == 0 && out == 0:
		return nil, nil
	case in != 1 || out != 1 || jumps(rules["POSTROUTING"], "KUBE-POSTROUTING") != 1 || len(rules["KUBE-POSTROUTING"]) == 0:
		return nil, fmt.Errorf("jumps are missing, or are there twice:\n%s", text)
	}
	found := routing{}
	for chain, list := range map[string][]natRule{"KUBE-SERVICES": rules["KUBE-SERVICES"], "KUBE-NODEPORTS": rules["KUBE-NODEPORTS"]} {
		for _, r := range list {
			from := fmt.Sprintf("%s %s %s", r.addr, r.protocol, r.port)
			if chain == "KUBE-NODEPORTS" {
				from = fmt.Sprintf("nodeport %s %s", r.protocol, r.port)
			}
			if r.port == "" {
				continue // it leads on to the NodePorts
			}
			to := reached(rules, r.jump)
			if len(to) == 0 {
				return nil, fmt.Errorf("%s leads to nothing:\n%s", from, text)
			}
			found.add(from, to...)
		}
	}
	return found, nil
}

// reached are the endpoints that a chain leads to.
func reached(rules map[string][]natRule, chain string) (out []string) {
	for _, r := range rules[chain] {
		if r.to != "" {
			out = append(out, netip.MustParseAddrPort(r.to).String())
		}
		out = append(out, reached(rules, r.jump)...)
	}
	return out
}

// What TestKilledAnywhere lets pass, and what not.
func TestKilledJudges(t *testing.T) {
	old, next := routing{"10.96.0.1 tcp 80": {"a"}, "10.96.0.2 tcp 80": {"b"}}, routing{"10.96.0.1 tcp 80": {"c"}, "10.96.0.3 tcp 80": {"d"}}
	half := routing{"10.96.0.1 tcp 80": {"c"}, "10.96.0.2 tcp 80": {"b"}}
	own, other := place{"nftables", proxy.IPv4}, place{"iptables-nft", proxy.IPv4}
	for name, row := range map[string]struct {
		at          place
		before, now map[place]routing
		changing    bool
		running     string
		bad         bool
	}{
		"nothing done":                    {at: own, before: map[place]routing{own: old}, now: map[place]routing{own: old}},
		"nothing there yet":               {at: own},
		"all done":                        {at: own, before: map[place]routing{own: old}, now: map[place]routing{own: next}},
		"half":                            {at: own, before: map[place]routing{own: old}, now: map[place]routing{own: half}, bad: true},
		"half of a start":                 {at: own, now: map[place]routing{own: half}, bad: true},
		"one of two changes":              {at: own, before: map[place]routing{own: old}, now: map[place]routing{own: half}, changing: true},
		"neither":                         {at: own, before: map[place]routing{own: old}, now: map[place]routing{own: {"10.96.0.1 tcp 80": {"x"}}}, changing: true, bad: true},
		"gone":                            {at: own, before: map[place]routing{own: old}, bad: true},
		"the other mode stays":            {at: other, before: map[place]routing{other: old}, now: map[place]routing{other: old}},
		"the other mode follows":          {at: other, before: map[place]routing{other: old}, now: map[place]routing{other: next, own: next}, bad: true},
		"the other mode is replaced":      {at: other, before: map[place]routing{other: old}, now: map[place]routing{own: next}},
		"the other mode is gone too soon": {at: other, before: map[place]routing{other: old}, bad: true},
		"the other mode is gone for old":  {at: other, before: map[place]routing{other: old, own: old}, now: map[place]routing{own: old}, bad: true},
		"a third mode is gone while one runs": {
			at: place{"iptables-legacy", proxy.IPv4}, before: map[place]routing{other: old, {"iptables-legacy", proxy.IPv4}: old}, now: map[place]routing{other: old}, running: other.mode,
		},
		"the mode that ran is gone too soon": {at: other, before: map[place]routing{other: old}, running: other.mode, bad: true},
	} {
		v := &victim{mode: own.mode, running: row.running, before: row.before, asked: map[proxy.Family]routing{proxy.IPv4: old}, seen: map[string]int{}}
		if err := v.judgePlace(row.at, row.now, next, row.changing); (err != nil) != row.bad {
			t.Errorf("%s: %v, want an error: %t", name, err, row.bad)
		}
	}
}
