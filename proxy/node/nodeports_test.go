package node

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
)

var byString = cmp.Transformer("text", netip.Addr.String)

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestSelectNodePorts(t *testing.T) {
	local := addrs("127.0.0.1", "10.0.0.5", "10.0.1.5", "192.0.2.1", "::1", "2001:db8::1", "2001:db8::2", "fe80::1")
	v4only := addrs("127.0.0.1", "192.0.2.1", "::1", "fe80::1")
	both := IPs{Primary: proxy.IPv4, V4: netip.MustParseAddr("192.0.2.1"), V6: netip.MustParseAddr("2001:db8::1")}
	single := IPs{Primary: proxy.IPv4, V4: netip.MustParseAddr("192.0.2.1")}
	elsewhere := IPs{Primary: proxy.IPv4, V4: netip.MustParseAddr("198.51.100.1")}
	loop := IPs{Primary: proxy.IPv4, V4: netip.MustParseAddr("127.0.0.1")}
	everywhere := proxy.NodePorts{Any: true}
	only := func(list ...string) proxy.NodePorts { return proxy.NodePorts{Addrs: addrs(list...)} }
	const loopback, all = "never served on", "selects no IPv6 address, which means all"

	for _, tt := range []struct {
		name   string
		family proxy.Family
		config NodePortConfig
		main   IPs
		local  []netip.Addr
		want   proxy.NodePorts
		tells  []string
	}{
		{"empty is all in iptables and IPVS mode", proxy.IPv4, NodePortConfig{}, both, local, everywhere, []string{"[primary]"}},
		{"empty is primary in nftables mode", proxy.IPv4, NodePortConfig{DefaultPrimary: true}, both, local, only("192.0.2.1"), nil},
		{"empty is primary in nftables mode, IPv6", proxy.IPv6, NodePortConfig{DefaultPrimary: true}, both, local, only("2001:db8::1"), nil},
		{"primary", proxy.IPv4, NodePortConfig{Primary: true}, both, local, only("192.0.2.1"), nil},
		{"all", proxy.IPv4, NodePortConfig{All: true}, both, local, everywhere, nil},
		{"all with others", proxy.IPv6, NodePortConfig{All: true, Primary: true, Prefixes: prefixes("2001:db8::/64")}, both, local, everywhere, nil},
		{"prefix of length 0 is all", proxy.IPv4, NodePortConfig{Prefixes: prefixes("0.0.0.0/0")}, both, local, everywhere, nil},
		{"prefix of length 0 says nothing of the other family", proxy.IPv6, NodePortConfig{Prefixes: prefixes("0.0.0.0/0", "2001:db8::2/128")}, both, local, only("2001:db8::2"), nil},
		{"addresses in a prefix", proxy.IPv4, NodePortConfig{Prefixes: prefixes("10.0.0.0/16")}, both, local, only("10.0.0.5", "10.0.1.5"), nil},
		{"addresses in two prefixes, once", proxy.IPv4, NodePortConfig{Prefixes: prefixes("10.0.0.0/24", "10.0.0.0/16")}, both, local, only("10.0.0.5", "10.0.1.5"), nil},
		{"prefix and primary", proxy.IPv4, NodePortConfig{Primary: true, Prefixes: prefixes("10.0.0.0/24")}, both, local, only("10.0.0.5", "192.0.2.1"), nil},
		{"prefix with no local address", proxy.IPv4, NodePortConfig{Prefixes: prefixes("172.16.0.0/12")}, both, local, only(), nil},
		{"link-local addresses, if asked for", proxy.IPv6, NodePortConfig{Prefixes: prefixes("fe80::/10")}, both, local, only("fe80::1"), nil},
		{"prefixes of one family mean all of the other", proxy.IPv6, NodePortConfig{Prefixes: prefixes("10.0.0.0/16")}, both, local, everywhere, []string{all}},
		{"primary of a node of one family means all of the other", proxy.IPv6, NodePortConfig{Primary: true}, single, local, everywhere, []string{all}},
		{"also as the default of nftables", proxy.IPv6, NodePortConfig{DefaultPrimary: true}, single, local, everywhere, []string{all}},
		{"no warning where nothing is exposed", proxy.IPv6, NodePortConfig{DefaultPrimary: true}, single, v4only, everywhere, nil},
		{"primary before anything is known of the node", proxy.IPv4, NodePortConfig{Primary: true}, IPs{Primary: proxy.IPv4}, local, only(), []string{"no address of the node is known"}},
		{"primary that is on no interface", proxy.IPv4, NodePortConfig{Primary: true}, elsewhere, local, only("198.51.100.1"), []string{"on none of its interfaces"}},
		{"prefix of a family, node unknown", proxy.IPv4, NodePortConfig{Primary: true, Prefixes: prefixes("10.0.0.0/24")}, IPs{Primary: proxy.IPv4}, local, only("10.0.0.5"), nil},
		{"loopback main address", proxy.IPv4, NodePortConfig{Primary: true}, loop, local, only(), []string{loopback}},
		{"localhost selects nothing", proxy.IPv4, NodePortConfig{Localhost: true}, both, local, only(), []string{loopback}},
		{"localhost selects nothing of IPv6", proxy.IPv6, NodePortConfig{Localhost: true}, both, local, only(), []string{loopback}},
		{"localhost beside primary", proxy.IPv4, NodePortConfig{Localhost: true, Primary: true}, both, local, only("192.0.2.1"), []string{loopback}},
		{"loopback prefix", proxy.IPv4, NodePortConfig{Prefixes: prefixes("127.0.0.1/32")}, both, local, only(), []string{loopback}},
		{"loopback inside a wider prefix", proxy.IPv4, NodePortConfig{Prefixes: prefixes("0.0.0.0/1")}, both, local, only("10.0.0.5", "10.0.1.5"), nil},
		{"the mode serves localhost itself", proxy.IPv4, NodePortConfig{Localhost: true, LocalhostServed: true}, both, local, only(), nil},
		{"but not that of IPv6", proxy.IPv6, NodePortConfig{Localhost: true, LocalhostServed: true}, both, local, only(), []string{loopback}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, warnings := SelectNodePorts(tt.family, tt.config, tt.main, tt.local)
			if diff := cmp.Diff(tt.want, got, byString); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			checkWarnings(t, warnings, tt.tells...)
		})
	}
}

func TestSelectNodePortsLeavesItsArgumentsAlone(t *testing.T) {
	roomy := append(make([]netip.Addr, 0, 8), addrs("192.0.2.2", "127.0.0.1", "192.0.2.1")...)
	main := IPs{Primary: proxy.IPv4, V4: netip.MustParseAddr("192.0.2.1")}
	got, _ := SelectNodePorts(proxy.IPv4, NodePortConfig{Primary: true, Prefixes: prefixes("192.0.2.0/24")}, main, roomy)
	if diff := cmp.Diff(addrs("192.0.2.1", "192.0.2.2"), got.Addrs, byString); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if want := append(addrs("192.0.2.2", "127.0.0.1", "192.0.2.1"), netip.Addr{}); !slices.Equal(want, roomy[:4]) {
		t.Errorf("the caller's addresses became %v", roomy[:4])
	}
}

func TestNodePortAddrs(t *testing.T) {
	local := addrs("192.0.2.1", "127.0.0.1", "10.0.0.5", "::1", "2001:db8::1")
	for _, tt := range []struct {
		name   string
		family proxy.Family
		ports  proxy.NodePorts
		want   []netip.Addr
	}{
		{"any is all but loopback", proxy.IPv4, proxy.NodePorts{Any: true}, addrs("10.0.0.5", "192.0.2.1")},
		{"any of IPv6", proxy.IPv6, proxy.NodePorts{Any: true}, addrs("2001:db8::1")},
		{"those selected", proxy.IPv4, proxy.NodePorts{Addrs: addrs("192.0.2.1")}, addrs("192.0.2.1")},
		{"none", proxy.IPv4, proxy.NodePorts{}, nil},
	} {
		if diff := cmp.Diff(tt.want, NodePortAddrs(tt.family, tt.ports, local), byString); diff != "" {
			t.Errorf("%s (-want +got)\n%s", tt.name, diff)
		}
	}
}
