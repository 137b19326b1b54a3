package proxy

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
)

// WriteText writes a State for people to read, always in the same order. The error is that of w.
func WriteText(w io.Writer, s *State) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", s.Family)
	writeNode(&b, s.Node)
	names := make([]ServicePortName, 0, s.Services.Len())
	for name := range s.Services.All() {
		names = append(names, name)
	}
	slices.SortFunc(names, ServicePortName.Compare)
	for _, name := range names {
		service, _ := s.Services.Get(name)
		writeService(&b, service)
	}
	checks := make([]ServiceName, 0, s.HealthChecks.Len())
	for name := range s.HealthChecks.All() {
		checks = append(checks, name)
	}
	slices.SortFunc(checks, ServiceName.Compare)
	for _, name := range checks {
		h, _ := s.HealthChecks.Get(name)
		fmt.Fprintf(&b, "  health check of %s: port %d, %d local endpoints\n", name, h.Port, h.LocalEndpoints)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeNode(b *strings.Builder, n *Node) {
	if n.NodePorts.Any {
		fmt.Fprintf(b, "  NodePorts on every address of the node, at present %s\n", list(n.NodePorts.Addrs))
	} else {
		fmt.Fprintf(b, "  NodePorts on %s\n", list(n.NodePorts.Addrs))
	}
	switch p := &n.LocalPods; {
	case len(p.Prefixes) > 0:
		fmt.Fprintf(b, "  pods are in %s\n", list(p.Prefixes))
	case p.Interface != "":
		fmt.Fprintf(b, "  pods are behind interface %s\n", p.Interface)
	case p.InterfacePrefix != "":
		fmt.Fprintf(b, "  pods are behind interfaces %s*\n", p.InterfacePrefix)
	default:
		b.WriteString("  pods are not recognised\n")
	}
	fmt.Fprintf(b, "  service CIDRs %s\n  masquerade mark %#x\n", list(n.ServiceCIDRs), n.MasqueradeMark)
}

func writeService(b *strings.Builder, s *Service) {
	fmt.Fprintf(b, "  %s", s.Name)
	if s.Affinity > 0 {
		fmt.Fprintf(b, " affinity %v", s.Affinity)
	}
	b.WriteString("\n")
	for i := range s.Frontends {
		f := &s.Frontends[i]
		fmt.Fprintf(b, "    %s %s: %s\n", f.Kind, s.Key(f), actions(f))
	}
	for _, p := range [...]Pool{Cluster, Local} {
		if pool := s.Pool(p); len(pool) > 0 {
			fmt.Fprintf(b, "    %s pool %s\n", p, endpointList(pool))
		}
	}
	if len(s.Serving) > 0 {
		fmt.Fprintf(b, "    serving %s\n", list(s.Serving))
	}
}

func actions(f *Frontend) string {
	pod, node, other := f.Actions[FromPod], f.Actions[FromNode], f.Actions[FromElsewhere]
	text := fmt.Sprintf("from pods %s, from the node %s, else %s", pod, node, other)
	if pod == node && pod == other {
		text = pod.String()
	}
	if f.AllowedSources != nil {
		text += ", only from " + list(f.AllowedSources)
	}
	return text
}

func endpointList(pool []Endpoint) string {
	texts := make([]string, len(pool))
	for i, e := range pool {
		if texts[i] = e.Addr.String(); e.Local {
			texts[i] += " (local)"
		}
	}
	return strings.Join(texts, " ")
}

func list[T netip.Addr | netip.Prefix | netip.AddrPort](values []T) string {
	if len(values) == 0 {
		return "none"
	}
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = fmt.Sprint(v)
	}
	return strings.Join(texts, " ")
}
