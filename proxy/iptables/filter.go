package iptables

import (
	"net/netip"
	"slices"
	"strconv"

	"turnout/proxy"
)

// refuse makes the rules of table filter for a frontend. They meet only connections that table nat left as they were: those it translated have
// passed by then (see headOf).
func (w *writer) refuse(f *proxy.Frontend) {
	verdicts := w.refusals(f)
	switch restricted := f.AllowedSources != nil; {
	case restricted:
		for _, to := range w.destinations(f) {
			for _, v := range verdicts {
				for _, p := range f.AllowedSources {
					w.refuseSource(v, "-s "+p.String()+" ", to)
				}
			}
			w.add(filterFirewall, to+"-j DROP")
		}
	case f.Kind == proxy.ClusterIP && slices.Equal(verdicts, []refusal{{verdict: proxy.Reject}}):
		// Every port of a ClusterIP that is not translated is rejected.
	default:
		c := filterExternal
		if f.Kind == proxy.ClusterIP {
			c = filterFirewall
		}
		for _, to := range w.destinations(f) {
			for _, v := range verdicts {
				w.add(c, v.from+to+"-j "+w.target(v.verdict))
			}
		}
	}
}

// refuseSource adds the rule of a refusal for one prefix of allowed sources. A rule has one source: who is known by its own prefix is allowed if that lies
// in the allowed one, and who is in part allowed by the part that is.
func (w *writer) refuseSource(v refusal, source, to string) {
	if v.prefix.IsValid() {
		p := netip.MustParsePrefix(source[len("-s ") : len(source)-1])
		switch {
		case !p.Overlaps(v.prefix):
			return
		case v.prefix.Bits() > p.Bits():
			p = v.prefix
		}
		w.add(filterFirewall, "-s "+p.String()+" "+to+"-j "+w.target(v.verdict))
		return
	}
	w.add(filterFirewall, source+v.from+to+"-j "+w.target(v.verdict))
}

// refusal is what becomes of connections that are not forwarded.
type refusal struct {
	from    string // whom it concerns
	prefix  netip.Prefix
	verdict proxy.Verdict
}

// refusals are the verdicts on connections that a frontend does not forward, the first that matches counts. Where it has but one, nobody needs to
// be asked where he comes from: who is forwarded does not get here.
func (w *writer) refusals(f *proxy.Frontend) (out []refusal) {
	a := w.actions(f.Actions)
	var different []proxy.Verdict
	for _, x := range a {
		if x.Verdict != proxy.Forward && !slices.Contains(different, x.Verdict) {
			different = append(different, x.Verdict)
		}
	}
	if len(different) == 1 {
		return []refusal{{verdict: different[0]}}
	}
	if len(different) == 0 {
		return nil
	}
	if v := a[proxy.FromPod].Verdict; v != proxy.Forward {
		for i, m := range w.pods {
			r := refusal{from: m.is, verdict: v}
			if len(w.node.LocalPods.Prefixes) > 0 {
				r.prefix = w.node.LocalPods.Prefixes[i]
			}
			out = append(out, r)
		}
	}
	if v := a[proxy.FromNode].Verdict; v != proxy.Forward {
		out = append(out, refusal{from: fromNode, verdict: v})
	}
	if v := a[proxy.FromElsewhere].Verdict; v != proxy.Forward {
		out = append(out, refusal{verdict: v})
	}
	return out
}

// target rejects TCP by a reset: ICMP errors are rate limited, beyond which clients would wait instead of failing.
func (w *writer) target(v proxy.Verdict) string {
	switch {
	case v == proxy.Drop:
		return "DROP"
	case w.service.Name.Protocol == proxy.TCP:
		return "REJECT --reject-with tcp-reset"
	}
	return "REJECT"
}

// destinations are the matches for a frontend's addresses, each with the port.
func (w *writer) destinations(f *proxy.Frontend) (out []string) {
	port := w.port(f) + w.comment(f.Kind)
	if f.Kind != proxy.NodePort {
		return []string{"-d " + host(f.Addr) + " " + port}
	}
	for _, to := range w.nodeAddrs() {
		out = append(out, to+port)
	}
	return out
}

// nodeAddrs are the matches for the addresses that serve NodePorts, but for loopback ones.
func (r *renderer) nodeAddrs() (out []string) {
	if r.node.NodePorts.Any {
		return []string{"! -d " + r.loopback() + " -m addrtype --dst-type LOCAL "}
	}
	for _, a := range r.node.NodePorts.Addrs {
		out = append(out, "-d "+host(a)+" ")
	}
	return out
}

func (r *renderer) loopback() string {
	if r.family == proxy.IPv6 {
		return "::1/128"
	}
	return "127.0.0.0/8"
}

// clusterIP returns where the rule stands that rejects what is sent to undefined ports of a ClusterIP.
func (r *renderer) clusterIP(a netip.Addr) (sharedChain, string) {
	if slices.ContainsFunc(r.node.ServiceCIDRs, func(p netip.Prefix) bool { return p.Contains(a) }) {
		return filterClusterIPs, "-d " + host(a) + " -j " + rejectChain
	}
	return filterServices, "-d " + host(a) + " -j " + rejectChain
}

func healthPort(h proxy.HealthCheck) string {
	return "-p tcp -m tcp --dport " + strconv.Itoa(int(h.Port)) + " -j ACCEPT"
}
