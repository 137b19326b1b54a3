package nftables

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// Every attribute's length fits its 16 bits and lies within the one around it, whatever the number of elements.
func TestMessagesAreWellFormed(t *testing.T) {
	for _, n := range []int{0, 1, 700, 701, 5000} {
		var services []*proxy.Service
		for i := range n {
			services = append(services, proxytest.NewService(fmt.Sprintf("%s/s%d/TCP", strings.Repeat("n", 63), i), proxytest.At(proxy.LoadBalancerIP,
				fmt.Sprintf("[fd00::%x:%x]:80", i/1000, i%1000), proxytest.RejectAll, "fd01::/64", "fd02::1/128")))
		}
		var e encoder
		e.family = proxy.IPv6
		for _, apart := range []bool{false, true} {
			e.apart = apart
			batch, err := e.encode(newTable(proxytest.NewState(proxy.IPv6, services...), nil, map[proxy.ServicePortName]error{}).build(replace))
			if err != nil {
				t.Fatal(err)
			}
			elements, longest := 0, 0
			err = eachMessage(batch, func(m received) error {
				longest = max(longest, len(m.payload))
				if m.typ&0xff != unix.NFT_MSG_NEWSETELEM || m.typ>>8 != unix.NFNL_SUBSYS_NFTABLES {
					return nil
				}
				return eachNested(m.payload[sizeofNfgenmsg:], unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(uint16, []byte) error { elements++; return nil })
			})
			if err != nil {
				t.Errorf("%d services, apart %t: %v", n, apart, err)
			}
			if elements < 3*n || longest > 1<<16 || n >= 5000 && !apart && longest < 60000 {
				t.Errorf("%d services, apart %t: %d elements, the longest message has %d bytes", n, apart, elements, longest)
			}
		}
	}
}

// Nothing that arrives makes a reader panic or read on for ever.
func FuzzReaders(f *testing.F) {
	s := proxytest.RandomState(rand.New(rand.NewPCG(1, 1)), proxy.IPv4, 3)
	var e encoder
	e.family = proxy.IPv4
	batch, err := e.encode(newTable(s, nil, map[proxy.ServicePortName]error{}).build(replace))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(batch[len(batch)-600:])
	f.Add(batch[:600])
	f.Add(errorMessage(received{sequence: 3}, unix.EEXIST, 40))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		m := monitor{table: TableName, report: func(Interference) {}}
		m.datagram(bytes.Clone(data))
		for _, family := range proxy.Families {
			k := newKernel(family, &script{answers: [][]byte{data, data}}, false)
			k.encoder.messages = []message{{}, {elements: make([]element, 2)}, {}, {}}
			k.encoder.buf = bytes.Clone(data)
			_, _ = k.readFailures()
			_, _ = k.tableIsOurs()
			k.sent = 0
			_ = k.dump(newSets(capacity{}).affinity, func(d dumped) error {
				parseTuple(family, d.key, false)
				parseTuple(family, d.key, true)
				t := &table{byNumber: map[uint32]*programmed{0: {slots: [2][]netip.AddrPort{{netip.MustParseAddrPort("10.0.0.1:80")}}}}}
				t.leads()(&remembered{key: append(d.key, 0, 0, 0, 0), value: d.value})
				return nil
			})
		}
	})
}

// What a transaction needed is given back: the one that makes a large table needs tens of MB, and none may follow for months.
func TestEncoderForgets(t *testing.T) {
	b := newFakeKernel(proxy.IPv4).backend(Options{})
	state := proxytest.LargeState(3000)
	if _, err := b.Apply(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	e := &b.kernel.encoder
	if cap(e.buf) > kept || e.owners != nil {
		t.Errorf("%d bytes and %d owners are kept", cap(e.buf), len(e.owners))
	}
	for _, m := range e.messages[:cap(e.messages)] {
		if m.elements != nil {
			t.Errorf("elements of %q are kept", m.what())
		}
	}
}

// What the kernel says of a message is understood with and without its own words, with and without the message itself.
func TestFailure(t *testing.T) {
	original := make([]byte, unix.SizeofNlMsghdr+20)
	binary.NativeEndian.PutUint32(original, uint32(len(original)))
	build := func(flags uint16, original []byte, attributes ...[]byte) received {
		b := append(binary.NativeEndian.AppendUint32(nil, uint32(1<<32-int(unix.EEXIST))), original...)
		for _, a := range attributes {
			b = append(b, a...)
		}
		return received{typ: unix.NLMSG_ERROR, flags: flags, sequence: 7, payload: b}
	}
	attribute := func(typ uint16, data []byte) []byte {
		a := attributes{}
		a.bytes(typ, data)
		return a.buf
	}
	text, offset := attribute(1, []byte("no such thing\x00")), attribute(2, host(36))
	for _, row := range []struct {
		name string
		m    received
		want kernelError
		err  error
	}{
		{"plain", build(0, original[:16]), kernelError{errno: unix.EEXIST, sequence: 7}, nil},
		{"with words", build(0x300, original[:16], text), kernelError{errno: unix.EEXIST, sequence: 7, text: "no such thing"}, nil},
		{"with the place", build(0x300, original[:16], offset, text), kernelError{errno: unix.EEXIST, sequence: 7, offset: 36, text: "no such thing"}, nil},
		{"with the message", build(0x200, original, offset), kernelError{errno: unix.EEXIST, sequence: 7, offset: 36}, nil},
		{"with a part of the message", build(0x200, original[:20]), kernelError{errno: unix.EEXIST, sequence: 7}, nil},
		{"cut off", received{payload: []byte{1, 2, 3}}, kernelError{}, errTruncated},
	} {
		got, err := row.m.failure()
		if !errors.Is(err, row.err) || err == nil && *got != row.want {
			t.Errorf("%s: %+v, %v; want %+v, %v", row.name, got, err, row.want, row.err)
		}
	}
	if got, err := (received{payload: make([]byte, 20)}).failure(); got != nil || err != nil {
		t.Errorf("an acknowledgement: %v, %v", got, err)
	}
}

func TestNftDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Millisecond: "1ms", 90 * time.Second: "1m30s", 3 * time.Hour: "3h", 24 * time.Hour: "1d",
		26*time.Hour + time.Second: "1d2h1s", 86399 * time.Second: "23h59m59s",
	} {
		if got := nftDuration(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
		if back := parseNftDuration(nftDuration(d)); back != d {
			t.Errorf("%v: read back as %v", d, back)
		}
	}
}

func TestCapacity(t *testing.T) {
	for need, want := range map[uint32]uint32{0: minCapacity, 2048: minCapacity, 2049: 2 * minCapacity, 30000: 65536, 150000: 524288} {
		c := capacityFor(capacity{need, need, need, need})
		if c != (capacity{want, want, want, want}) {
			t.Errorf("%d: %+v, want %d", need, c, want)
		}
		if !c.fits(capacity{need, need, need, need}) || c.fits(capacity{0, 0, 0, want + 1}) {
			t.Errorf("%d: what fits %+v is wrong", need, c)
		}
	}
}
