package conntrack

import (
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

func TestMain(m *testing.M) { os.Exit(proxytest.Main(m)) }

// insert puts a flow into the kernel's table, with a timeout far beyond the test.
func insert(t testing.TB, f Flow) {
	t.Helper()
	family := uint8(unix.AF_INET)
	if f.Original.Dst.Addr().Is6() {
		family = unix.AF_INET6
	}
	reply := deleteAttributes(Flow{Protocol: f.Protocol, Original: f.Reply})[0]
	reply.Type = reply.Type&^nl.NLA_TYPE_MASK | nl.CTA_TUPLE_REPLY
	f.ID = 0
	attributes := append(deleteAttributes(f), reply, nl.NewRtAttr(nl.CTA_TIMEOUT, nl.BEUint32Attr(600)))
	if f.Protocol == proxy.TCP {
		attributes = append(attributes, nested(nl.CTA_PROTOINFO, nested(nl.CTA_PROTOINFO_TCP,
			nl.NewRtAttr(nl.CTA_PROTOINFO_TCP_STATE, nl.Uint8Attr(nl.TCP_CONNTRACK_ESTABLISHED)))))
	}
	k := &kernel{family: family}
	if _, err := k.request(nl.IPCTNL_MSG_CT_NEW, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, attributes).Execute(unix.NETLINK_NETFILTER, 0); err != nil {
		t.Fatalf("insert %s: %v", f, err)
	}
}

// listed returns what another implementation reads from the kernel, as "destination<-answerer/protocol", sorted.
func listed(t testing.TB, family netlink.InetFamily) []string {
	t.Helper()
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range flows {
		out = append(out, describe(f.Forward.DstIP, f.Forward.DstPort, f.Reverse.SrcIP, f.Reverse.SrcPort, f.Forward.Protocol))
	}
	slices.Sort(out)
	return out
}

func describe(dst net.IP, dport uint16, src net.IP, sport uint16, protocol uint8) string {
	d, _ := netip.AddrFromSlice(dst)
	s, _ := netip.AddrFromSlice(src)
	return netip.AddrPortFrom(d.Unmap(), dport).String() + "<-" + netip.AddrPortFrom(s.Unmap(), sport).String() + "/" + proxy.Protocol(protocol).String()
}

func descriptions(flows ...Flow) []string {
	var out []string
	for _, f := range flows {
		out = append(out, describe(f.Original.Dst.Addr().AsSlice(), f.Original.Dst.Port(), f.Reply.Src.Addr().AsSlice(), f.Reply.Src.Port(), uint8(f.Protocol)))
	}
	slices.Sort(out)
	return out
}

func TestKernelIPv4(t *testing.T) {
	tcp := flow(vip, podB)
	tcp.Protocol = proxy.TCP
	live := []Flow{flow(vip, podA), flow(nodeIP+":30053", podA), flow(otherIP+":30053", otherIP+":30053"), flow("10.96.0.11:53", podB), tcp}
	zoned, half := flow(vip, podB), flow(vip, podB)
	zoned.Zone, half.OriginalZone = 7, 8
	staleFlows := []Flow{flow(vip, podB), flow(vip, vip), flow(nodeIP+":30053", nodeIP+":30053"), zoned, half}
	all := numbered(append(slices.Clone(live), staleFlows...)...)

	proxytest.InNamespace(t, func() {
		for _, f := range all {
			insert(t, f)
		}
		c := NewCleaner(proxy.IPv4)
		dns := service("dns", []string{vip, ":30053"}, podA)
		r, err := c.Clean(context.Background(), []netip.Addr{netip.MustParseAddr(nodeIP)}, []Change{{New: dns}})
		if err != nil || r.Deleted != len(staleFlows) {
			t.Errorf("got %+v, %v, want %d deleted", r, err, len(staleFlows))
		}
		if diff := cmp.Diff(descriptions(live...), listed(t, unix.AF_INET)); diff != "" {
			t.Errorf("left (-want +got)\n%s", diff)
		}
		// The first Service changes: only its live flow goes.
		r, err = c.Clean(context.Background(), []netip.Addr{netip.MustParseAddr(nodeIP)}, []Change{{Old: dns, New: service("dns", []string{vip, ":30053"})}})
		if err != nil || r.Deleted != 2 {
			t.Errorf("scaled to zero: %+v, %v, want 2 deleted", r, err)
		}
		if diff := cmp.Diff(descriptions(live[2:]...), listed(t, unix.AF_INET)); diff != "" {
			t.Errorf("scaled to zero: left (-want +got)\n%s", diff)
		}
	})
}

func TestKernelIPv6(t *testing.T) {
	v6 := func(dst, from string, port uint16) Flow {
		client := netip.AddrPortFrom(netip.MustParseAddr("fd00::9"), port)
		return Flow{Protocol: proxy.UDP, Original: Tuple{client, netip.MustParseAddrPort(dst)}, Reply: Tuple{netip.MustParseAddrPort(from), client}}
	}
	live, gone := v6("[fd00:10::1]:53", "[fd00:1::5]:53", 1), v6("[fd00:10::1]:53", "[fd00:1::6]:53", 2)
	v4 := flow(vip, podB)
	proxytest.InNamespace(t, func() {
		insert(t, live)
		insert(t, gone)
		insert(t, v4)
		r, err := NewCleaner(proxy.IPv6).Clean(context.Background(), nil, []Change{{New: service("dns", []string{"[fd00:10::1]:53", vip}, "[fd00:1::5]:53")}})
		if err != nil || r.Deleted != 1 || r.Examined != 2 {
			t.Errorf("got %+v, %v, want 1 of 2 deleted", r, err)
		}
		if diff := cmp.Diff(descriptions(live), listed(t, unix.AF_INET6)); diff != "" {
			t.Errorf("left (-want +got)\n%s", diff)
		}
		if diff := cmp.Diff(descriptions(v4), listed(t, unix.AF_INET)); diff != "" {
			t.Errorf("left of IPv4 (-want +got)\n%s", diff)
		}
	})
}

// kernelFilters tells whether the kernel filters dumps (since 5.8).
func kernelFilters(t testing.TB) bool {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	major, rest, _ := strings.Cut(unix.ByteSliceToString(name.Release[:]), ".")
	minor, _, _ := strings.Cut(rest, ".")
	return len(major) > 1 || major > "5" || major == "5" && (len(minor) > 1 || minor >= "8")
}

func TestKernelFiltersDumps(t *testing.T) {
	if !kernelFilters(t) {
		t.Skip("needs a kernel that filters dumps, 5.8 or later")
	}
	tcp := flow(vip, podA)
	tcp.Protocol = proxy.TCP
	all := numbered(flow(vip, podA), flow("10.96.0.10:54", podA), flow("10.96.0.11:53", podA), flow("10.96.0.11:54", podA), tcp)
	proxytest.InNamespace(t, func() {
		for _, f := range all {
			insert(t, f)
		}
		table, err := openKernel(proxy.IPv4)
		if err != nil {
			t.Fatal(err)
		}
		defer table.close()
		addr := netip.MustParseAddr("10.96.0.10")
		for _, tt := range []struct {
			filter filter
			want   []Flow
		}{
			{filter{family: proxy.IPv4, protocol: proxy.UDP}, all[:4]},
			{filter{family: proxy.IPv4, protocol: proxy.TCP}, all[4:]},
			{filter{family: proxy.IPv4, protocol: proxy.UDP, addr: addr}, all[:2]},
			{filter{family: proxy.IPv4, protocol: proxy.UDP, port: 53}, []Flow{all[0], all[2]}},
			{filter{family: proxy.IPv4, protocol: proxy.UDP, addr: addr, port: 53}, all[:1]},
		} {
			var got []Flow
			if err := table.each(tt.filter, func(f Flow) bool { got = append(got, f); return true }); err != nil {
				t.Fatalf("%+v: %v", tt.filter, err)
			}
			if diff := cmp.Diff(descriptions(tt.want...), descriptions(got...)); diff != "" {
				t.Errorf("%+v (-want +got)\n%s", tt.filter, diff)
			}
		}
	})
}

func TestKernelRemovesExactlyOneFlow(t *testing.T) {
	proxytest.InNamespace(t, func() {
		insert(t, flow(vip, podA))
		table, err := openKernel(proxy.IPv4)
		if err != nil {
			t.Fatal(err)
		}
		defer table.close()
		absent := flow(vip, podA)
		absent.Original.Src = netip.MustParseAddrPort("10.1.9.9:1")
		recreated := flow(vip, podA)
		recreated.ID = 12345 // of an earlier flow with the same tuples
		for _, f := range []Flow{absent, recreated} {
			if removed, err := table.remove(f); removed || err != nil {
				t.Errorf("remove %s, id %d: %t, %v, want not found", f, f.ID, removed, err)
			}
		}
		if diff := cmp.Diff(descriptions(flow(vip, podA)), listed(t, unix.AF_INET)); diff != "" {
			t.Errorf("left (-want +got)\n%s", diff)
		}
	})
}

// TestKernelDumpOfManyFlows removes half of a table of several thousand flows while the dump that finds them runs.
func TestKernelDumpOfManyFlows(t *testing.T) {
	const n = 5000
	proxytest.InNamespace(t, func() {
		for i := range n {
			f := flow(vip, []string{podA, podB}[i%2])
			f.Original.Src = netip.AddrPortFrom(f.Original.Src.Addr(), uint16(1000+i))
			f.Reply.Dst = f.Original.Src
			insert(t, f)
		}
		r, err := NewCleaner(proxy.IPv4).Clean(context.Background(), nil, []Change{{New: service("dns", []string{vip}, podA)}})
		if err != nil || r.Deleted != n/2 || r.Examined < n {
			t.Errorf("got %+v, %v, want %d of %d deleted", r, err, n/2, n)
		}
		t.Logf("%d flows examined, %d deleted in %v", r.Examined, r.Deleted, r.Duration)
		left := listed(t, unix.AF_INET)
		if want := descriptions(flow(vip, podA)); len(left) != n/2 || slices.ContainsFunc(left, func(s string) bool { return s != want[0] }) {
			t.Errorf("%d flows left, want %d of %s", len(left), n/2, want)
		}
	})
}
