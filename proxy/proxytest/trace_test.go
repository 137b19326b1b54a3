package proxytest

import (
	"net/netip"
	"strings"
	"testing"

	"turnout/proxy"
)

func TestTrace(t *testing.T) {
	state := NewState(proxy.IPv4,
		NewService("default/web:http/TCP",
			At(proxy.ClusterIP, "10.96.0.10:80", Internal),
			At(proxy.NodePort, ":30080", ExternalLocal),
			At(proxy.LoadBalancerIP, "192.168.60.1:80", External, "192.168.50.100/31", "192.168.50.1/32"),
			On("10.244.1.2:8080 local", "10.244.2.2:8080")),
		NewService("default/far/UDP",
			At(proxy.ClusterIP, "10.96.0.11:53", DropAll),
			At(proxy.ExternalIP, "192.168.60.2:53", ExternalElsewhere),
			On("10.244.2.2:8080")),
		NewService("default/none/TCP",
			At(proxy.ClusterIP, "10.96.0.12:80", RejectAll),
			At(proxy.LoadBalancerIP, "192.168.60.3:80", RejectAll, "192.168.50.100/32"),
			At(proxy.NodePort, ":30081", RejectAll)),
	)
	if err := Check(state); err != nil {
		t.Fatal(err)
	}
	none := *state
	none.Node = &proxy.Node{MasqueradeMark: 1, NodePorts: proxy.NodePorts{Addrs: addrs("192.168.50.1")}}
	iface := *state
	iface.Node = &proxy.Node{MasqueradeMark: 1, NodePorts: proxy.NodePorts{Any: true}, LocalPods: proxy.LocalPods{Interface: "veth-pod-1"}}
	prefix := *state
	prefix.Node = &proxy.Node{MasqueradeMark: 1, LocalPods: proxy.LocalPods{InterfacePrefix: "veth-"}}

	for _, row := range []struct {
		state *proxy.State
		from  string // host, or host and address
		to    string
		want  string
	}{
		// The pools and masquerading, by origin.
		{state, "pod-2", "10.96.0.10:80/TCP", "forward to 10.244.1.2:8080, 10.244.2.2:8080"},
		{state, "pod-4", "10.96.0.10:80/TCP", "forward to 10.244.1.2:8080, 10.244.2.2:8080"},
		{state, "pod-1", "10.96.0.10:80/TCP", "forward to 10.244.1.2:8080+masquerade, 10.244.2.2:8080"}, // hairpin
		{state, "n1", "10.96.0.10:80/TCP", "forward to 10.244.1.2:8080+masquerade, 10.244.2.2:8080+masquerade"},
		{state, "client", "10.96.0.10:80/TCP", "forward to 10.244.1.2:8080+masquerade, 10.244.2.2:8080+masquerade"},
		{state, "pod-2", "192.168.50.1:30080/TCP", "forward to 10.244.1.2:8080, 10.244.2.2:8080"},
		{state, "n1 10.244.1.1", "192.168.50.1:30080/TCP", "forward to 10.244.1.2:8080, 10.244.2.2:8080"}, // pods first
		{state, "n1", "192.168.50.1:30080/TCP", "forward to 10.244.1.2:8080+masquerade, 10.244.2.2:8080+masquerade"},
		{state, "client", "192.168.50.1:30080/TCP", "forward to 10.244.1.2:8080"},
		// Without a way to recognise pods, everything else is elsewhere.
		{&none, "pod-2", "192.168.50.1:30080/TCP", "forward to 10.244.1.2:8080"},
		{&none, "client", "10.96.0.10:80/TCP", "forward to 10.244.1.2:8080+masquerade, 10.244.2.2:8080+masquerade"},
		// By the interface.
		{&iface, "pod-1", "10.96.0.10:80/TCP", "forward to 10.244.1.2:8080+masquerade, 10.244.2.2:8080"},
		{&iface, "pod-2", "10.96.0.10:80/TCP", "forward to 10.244.1.2:8080+masquerade, 10.244.2.2:8080+masquerade"},
		{&prefix, "pod-2", "10.96.0.10:80/TCP", "forward to 10.244.1.2:8080, 10.244.2.2:8080"},
		{&prefix, "pod-4", "10.96.0.10:80/TCP", "forward to 10.244.1.2:8080+masquerade, 10.244.2.2:8080+masquerade"},
		{&prefix, "n1 10.244.1.1", "10.96.0.10:80/TCP", "forward to 10.244.1.2:8080+masquerade, 10.244.2.2:8080+masquerade"},
		// The addresses of NodePorts.
		{state, "client", "192.168.51.1:30080/TCP", "forward to 10.244.1.2:8080"},
		{state, "n1", "127.0.0.1:30080/TCP", "pass"},
		{&none, "client", "192.168.51.1:30080/TCP", "pass"},
		{&prefix, "client", "192.168.50.1:30080/TCP", "pass"},
		{state, "client", "192.168.50.100:30080/TCP", "pass"},
		{state, "client", "192.168.50.1:30080/UDP", "pass"},
		// Allowed sources.
		{state, "client", "192.168.60.1:80/TCP", "forward to 10.244.1.2:8080+masquerade, 10.244.2.2:8080+masquerade"},
		{state, "client 192.168.50.101", "192.168.60.1:80/TCP", "forward to 10.244.1.2:8080+masquerade, 10.244.2.2:8080+masquerade"},
		{state, "client 192.168.50.102", "192.168.60.1:80/TCP", "drop"},
		{state, "pod-1", "192.168.60.1:80/TCP", "drop"},
		{state, "client", "192.168.60.3:80/TCP", "reject"},
		{state, "pod-1", "192.168.60.3:80/TCP", "drop"}, // rather than reject
		// Without endpoints.
		{state, "client", "10.96.0.11:53/UDP", "drop"},
		{state, "client", "192.168.60.2:53/UDP", "drop"},
		{state, "pod-1", "192.168.60.2:53/UDP", "forward to 10.244.2.2:8080"},
		{state, "n1", "192.168.60.2:53/UDP", "forward to 10.244.2.2:8080+masquerade"},
		{state, "pod-1", "10.96.0.12:80/TCP", "reject"},
		{state, "pod-1", "192.168.50.1:30081/TCP", "reject"},
		// What no frontend serves.
		{state, "pod-1", "10.96.0.10:81/TCP", "reject"},
		{state, "pod-1", "10.96.0.10:80/SCTP", "reject"},
		{state, "pod-1", "10.96.0.99:80/TCP", "drop"},
		{state, "client", "10.96.255.255:80/UDP", "drop"},
		{&none, "pod-1", "10.96.0.99:80/TCP", "pass"},
		{&none, "pod-1", "10.96.0.10:81/TCP", "reject"},
		{state, "pod-1", "192.168.60.1:81/TCP", "pass"},
		{state, "pod-1", "10.244.2.2:8080/TCP", "pass"},
	} {
		p := packet(row.from, row.to)
		if got := Trace(row.state, p).String(); got != row.want {
			t.Errorf("%v:\n got %s\nwant %s", p, got, row.want)
		}
	}
	local := packet("pod-1", "10.96.0.99:80/TCP")
	local.NodeAddrs = append(addrs("10.96.0.99"), local.NodeAddrs...)
	if got := Trace(state, local); got.Verdict != Pass {
		t.Errorf("%v, an address of the node: %v", local, got)
	}
}

// packet makes a Packet from the name of a host, perhaps with another source address, and "ip:port/protocol".
func packet(from, to string) Packet {
	c := Addressing()
	name, source, _ := strings.Cut(from, " ")
	h := c.Host(name)
	p := Packet{From: name, Source: h.Addr(proxy.IPv4), Interface: h.Interface, NodeAddrs: AddrsOf(proxy.IPv4, c.NodeAddrs)}
	if source != "" {
		p.Source = netip.MustParseAddr(source)
	}
	addr, protocol, _ := strings.Cut(to, "/")
	a := netip.MustParseAddrPort(addr)
	p.Destination, p.Port, p.Protocol = a.Addr(), a.Port(), Name("a/b/"+protocol).Protocol
	return p
}

// A frontend with the address of the node wins over a NodePort of the same number.
func TestTraceAddressBeforeNodePort(t *testing.T) {
	state := NewState(proxy.IPv4,
		NewService("default/a/TCP", At(proxy.NodePort, ":30080", External), On("10.244.1.2:8080 local")),
		NewService("default/b/TCP", At(proxy.ExternalIP, "192.168.50.1:30080", External), On("10.244.1.3:8080 local")))
	for to, want := range map[string]string{"192.168.50.1:30080/TCP": "default/b/TCP", "192.168.51.1:30080/TCP": "default/a/TCP"} {
		if got := Trace(state, packet("client", to)); got.Service != Name(want) {
			t.Errorf("%s goes to %s, want %s", to, got.Service, want)
		}
	}
}
