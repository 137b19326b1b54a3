package leftovers

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

func server(protocol proxy.Protocol, at string) virtualServer {
	a := netip.MustParseAddrPort(at)
	return virtualServer{proxy.FamilyOf(a.Addr()), uint16(protocol), a}
}

// add makes a virtual server as ipvsadm would.
func (s virtualServer) add(t *testing.T) {
	t.Helper()
	const commandNewService, attrScheduler, attrFlags, attrTimeout, attrNetmask = 1, 6, 7, 8, 9
	r, err := ipvsRequest(commandNewService, unix.NLM_F_ACK)
	if err != nil {
		t.Fatal(err)
	}
	service, mask := s.encode(), uint32(0xffffffff)
	if s.family == proxy.IPv6 {
		mask = 128
	}
	service.AddRtAttr(attrScheduler, nl.ZeroTerminated("rr"))
	service.AddRtAttr(attrFlags, make([]byte, 8))
	service.AddRtAttr(attrTimeout, nl.Uint32Attr(0))
	service.AddRtAttr(attrNetmask, nl.Uint32Attr(mask))
	r.AddData(service)
	if _, err := r.Execute(unix.NETLINK_GENERIC, 0); err != nil {
		t.Fatalf("add %s: %v", s.object(), err)
	}
}

// Only the virtual servers at addresses of the interface go, and the interface. It needs a kernel with IPVS.
func TestKernelRemoveIPVS(t *testing.T) {
	proxytest.InNamespace(t, func() {
		if _, err := os.Stat("/proc/thread-self/net/ip_vs"); errors.Is(err, fs.ErrNotExist) {
			t.Skip("needs a kernel with IPVS")
		}
		if found, err := FindIPVS(); err != nil || len(found.Objects()) != 0 || len(found.Kept()) != 0 {
			t.Fatalf("at first: %+v, %v", found, err)
		}
		link := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: Device}}
		if err := netlink.LinkAdd(link); err != nil {
			t.Fatal(err)
		}
		for _, a := range []string{"10.96.0.1/32", "10.96.0.10/32", "fd00:96::1/128"} {
			ip, network, _ := net.ParseCIDR(a)
			if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: network.Mask}}); err != nil {
				t.Fatal(err)
			}
		}
		ours := []virtualServer{server(proxy.TCP, "10.96.0.1:443"), server(proxy.UDP, "10.96.0.10:53"), server(proxy.TCP, "10.96.0.10:53"), server(proxy.TCP, "[fd00:96::1]:443")}
		others := []virtualServer{server(proxy.TCP, "192.0.2.1:80"), server(proxy.TCP, "192.0.2.1:30080")}
		for _, s := range append(slices.Clone(ours), others...) {
			s.add(t)
		}
		found, err := FindIPVS()
		if err != nil {
			t.Fatal(err)
		}
		want, got := []string{"interface: kube-ipvs0"}, []string(nil)
		for _, s := range ours {
			want = append(want, s.object().String())
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
		if _, err := netlink.LinkByName(Device); err == nil {
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
