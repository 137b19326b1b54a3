package conntrack

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"

	"turnout/proxy"
)

var byValue = cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })

func serialize(attributes []*nl.RtAttr) []byte {
	msg := make([]byte, nl.SizeofNfgenmsg)
	for _, a := range attributes {
		msg = append(msg, a.Serialize()...)
	}
	return msg
}

// withReply turns a message that names a flow into one that describes it: the reply tuple has the form of the original.
func withReply(f Flow) []byte {
	reply := deleteAttributes(Flow{Protocol: f.Protocol, Original: f.Reply})[0]
	reply.Type = reply.Type&^nl.NLA_TYPE_MASK | nl.CTA_TUPLE_REPLY
	return serialize(append(deleteAttributes(f), reply))
}

func TestParseFlow(t *testing.T) {
	v6 := Flow{Protocol: proxy.UDP,
		Original: Tuple{netip.MustParseAddrPort("[fd00::9]:4000"), netip.MustParseAddrPort("[fd00:10::1]:53")},
		Reply:    Tuple{netip.MustParseAddrPort("[fd00:1::5]:5353"), netip.MustParseAddrPort("[fd00::9]:4000")}}
	zoned, half := flow(vip, podA), flow(vip, podB)
	zoned.Zone, zoned.ID = 7, 0xfedcba98
	half.OriginalZone = 9
	tcp := flow(vip, podA)
	tcp.Protocol = proxy.TCP
	for _, want := range []Flow{flow(vip, podA), v6, zoned, half, tcp} {
		got, ok := parseFlow(withReply(want))
		if diff := cmp.Diff(want, got, byValue); !ok || diff != "" {
			t.Errorf("%s: ok %t (-want +got)\n%s", want, ok, diff)
		}
	}
}

func TestParseFlowRefusesWhatIsIncomplete(t *testing.T) {
	whole := withReply(flow(vip, podA))
	for n := range len(whole) {
		if f, ok := parseFlow(whole[:n]); ok && f != flow(vip, podA) {
			t.Fatalf("first %d of %d bytes: %+v", n, len(whole), f)
		}
	}
	if _, ok := parseFlow(serialize(deleteAttributes(flow(vip, podA)))); ok {
		t.Error("flow without reply tuple accepted")
	}
	looping := append(make([]byte, nl.SizeofNfgenmsg), 0, 0, 0, 0)
	binary.NativeEndian.PutUint16(looping[nl.SizeofNfgenmsg:], 0) // an attribute of length 0 leads nowhere
	if _, ok := parseFlow(looping); ok {
		t.Error("message of empty attributes accepted")
	}
}

func TestParseFlowAllocatesNothing(t *testing.T) {
	msg := withReply(flow(vip, podA))
	if n := testing.AllocsPerRun(100, func() { parseFlow(msg) }); n > 0 {
		t.Errorf("%.0f allocations for a flow", n)
	}
}

func FuzzParseFlow(f *testing.F) {
	f.Add(withReply(flow(vip, podA)))
	f.Add([]byte{0, 0, 0, 0, 4, 0, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, ok := parseFlow(b)
		if ok && (!got.Original.valid() || !got.Reply.valid()) {
			t.Errorf("incomplete flow accepted: %+v", got)
		}
	})
}
