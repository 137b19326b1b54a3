package leftovers

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"turnout/proxy"
	"turnout/proxy/ipvs"
	"turnout/proxy/ipvs/genl"
	"turnout/proxy/proxytest"
)

func server(protocol proxy.Protocol, at string) genl.Key {
	return genl.Key{Protocol: protocol, At: netip.MustParseAddrPort(at)}
}

// addServers makes virtual servers as ipvsadm would.
func addServers(t *testing.T, keys ...genl.Key) {
	t.Helper()
	socket, err := genl.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	for _, k := range keys {
		if err := socket.AddServer(genl.Server{Key: k, Scheduler: "rr"}); err != nil {
			t.Fatal(err)
		}
	}
}

// Only the virtual servers at addresses of the interface go, and the interface. It needs a kernel with IPVS.
func TestKernelRemoveIPVS(t *testing.T) {
	proxytest.InNamespace(t, func() {
		if !ipvs.Loaded() {
			t.Skip("needs a kernel with IPVS")
		}
		if found, err := FindIPVS(); err != nil || len(found.Objects()) != 0 || len(found.Kept()) != 0 {
			t.Fatalf("at first: %+v, %v", found, err)
		}
		link := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: ipvs.Device}}
		if err := netlink.LinkAdd(link); err != nil {
			t.Fatal(err)
		}
		for _, a := range []string{"10.96.0.1/32", "10.96.0.10/32", "fd00:96::1/128"} {
			ip, network, _ := net.ParseCIDR(a)
			if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: network.Mask}}); err != nil {
				t.Fatal(err)
			}
		}
		ours := []genl.Key{server(proxy.TCP, "10.96.0.1:443"), server(proxy.UDP, "10.96.0.10:53"), server(proxy.TCP, "10.96.0.10:53"), server(proxy.TCP, "[fd00:96::1]:443")}
		others := []genl.Key{server(proxy.TCP, "192.0.2.1:80"), server(proxy.TCP, "192.0.2.1:30080")}
		addServers(t, append(slices.Clone(ours), others...)...)
		found, err := FindIPVS()
		if err != nil {
			t.Fatal(err)
		}
		want, got := []string{"interface: kube-ipvs0"}, []string(nil)
		for _, s := range ours {
			want = append(want, serverObject(s).String())
		}
		for _, o := range found.Objects() {
			got = append(got, o.String())
		}
		slices.Sort(want)
		slices.Sort(got)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("found: -want +got:\n%s", d)
		}
		if len(found.Kept()) != len(others) {
			t.Errorf("kept: %v, want %d", found.Kept(), len(others))
		}
		if err := found.Remove(); err != nil {
			t.Error(err)
		}
		left, err := virtualServers()
		if err != nil || len(left) != len(others) {
			t.Errorf("left: %v, %v, want %d", left, err, len(others))
		}
		if _, err := netlink.LinkByName(ipvs.Device); err == nil {
			t.Error("the interface is still there")
		}
	})
}

// Without the interface nothing is asked of the kernel: that could load a module.
func TestFindIPVSWithoutInterface(t *testing.T) {
	proxytest.InNamespace(t, func() {
		found, err := FindIPVS()
		if err != nil || len(found.Objects()) != 0 || len(found.Kept()) != 0 {
			t.Errorf("found %+v, %v", found, err)
		}
	})
}

// Addresses are listed again while changes interrupt that, but not for ever: what came with the interruption does not count.
func TestListed(t *testing.T) {
	for _, interruptions := range []int{0, attempts - 1, attempts} {
		asked := 0
		got, err := listed(func() ([]int, error) {
			if asked++; asked <= interruptions {
				return []int{1}, netlink.ErrDumpInterrupted
			}
			return []int{1, 2}, nil
		})
		if whole := interruptions < attempts; whole != (err == nil) || whole && len(got) != 2 || asked > attempts {
			t.Errorf("after %d interruptions: %v, %v, asked %d times", interruptions, got, err, asked)
		}
	}
}

// The tables of both families are told apart, as one may be left when the other is gone.
func TestTableObjects(t *testing.T) {
	found := &IPVS{tables: proxy.Families[:]}
	var got []string
	for _, o := range found.Objects() {
		got = append(got, o.String())
	}
	if d := cmp.Diff([]string{"table: ip kube-proxy-ipvs", "table: ip6 kube-proxy-ipvs"}, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

// Virtual servers that no proxy is known to have made may be kube-proxy's, unless a table of this proxy knows all of a family's.
func TestDoubtfulServers(t *testing.T) {
	found := &Remains{ipvs: &IPVS{others: []genl.Key{server(proxy.TCP, "192.0.2.1:80"), server(proxy.TCP, "[2001:db8::1]:80")}, tables: []proxy.Family{proxy.IPv4}}}
	if kept := found.Kept(); len(kept) != 1 || kept[0].Family != proxy.IPv6 || len(found.ipvs.Kept()) != 2 {
		t.Errorf("kept: %v, of IPVS: %v", kept, found.ipvs.Kept())
	}
}
