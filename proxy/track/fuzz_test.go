package track

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"turnout/proxy"
)

// readSlices makes up to four slices of default/web from bytes; few addresses and ports, so that duplicates are frequent.
func readSlices(data []byte) []*discovery.EndpointSlice {
	out := []*discovery.EndpointSlice{sliceObject("web", "0")}
	names := []string{"http", "", "dns"}
	for len(data) >= 3 {
		op, x, y := data[0], data[1], data[2]
		data = data[3:]
		s := out[len(out)-1]
		switch {
		case op%8 == 0 && len(out) < 4:
			s = sliceObject("web", fmt.Sprint(len(out)))
			if op&8 != 0 {
				s.AddressType = discovery.AddressTypeIPv6
			}
			out = append(out, s)
		case op%8 == 1:
			s.Ports = append(s.Ports, slicePortObject(names[int(x)%3], int32(y)%4-1, []v1.Protocol{"TCP", "UDP", "ICMP"}[int(x>>4)%3]))
		default:
			s.Endpoints = append(s.Endpoints, readEndpoint(s.AddressType, op, x, y))
		}
	}
	return out
}

func readEndpoint(fam discovery.AddressType, op, x, y byte) discovery.Endpoint {
	text := fmt.Sprintf("10.1.0.%d", op>>3&3)
	switch {
	case op&64 != 0:
		text = []string{"bad", "::ffff:10.1.0.1", "010.1.0.1", "127.0.0.1"}[op>>3&3]
	case fam == discovery.AddressTypeIPv6:
		text = fmt.Sprintf("fd00::%d", op>>3&3)
	}
	for i, key := range []string{"ready", "serving", "terminating"} {
		if x>>(2*i)&1 != 0 {
			text += fmt.Sprintf(" %s=%t", key, x>>(2*i+1)&1 != 0)
		}
	}
	for i, word := range []string{" on=n1", " on=n2", " zone=z1", " zone=z2", " node=n1"} {
		if y>>i&1 != 0 {
			text += word
		}
	}
	return endpointObject(text)
}

// FuzzMergeSlices: whatever the slices say, merging them does not panic, does not depend on any order, keeps every usable
// address and port once, and prefers what is not terminating.
func FuzzMergeSlices(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{10, 0, 0, 0, 0, 0, 10, 0b110001, 1})                         // a terminating duplicate in another slice
	f.Add([]byte{10, 0b110000, 4, 8, 0, 0, 10, 0, 1, 0, 0, 0, 10, 1, 8})      // of another family
	f.Add([]byte{1, 1, 3, 10, 0, 0, 1, 0x10, 0, 74, 0, 0, 82, 0, 0, 1, 1, 3}) // bad addresses, ports twice
	f.Add([]byte{2, 0, 4, 2, 0, 8, 0, 0, 0, 2, 0, 16, 2, 0, 1, 0, 0, 0, 2, 0b100, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		objects := readSlices(data)
		want := tracked(objects...)
		checkMerged(t, objects, want)
		permute(objects, func(order []*discovery.EndpointSlice) {
			if got := tracked(order...); !got.Equal(want) {
				t.Fatalf("another order of slices gives another result: -want +got:\n%s", cmp.Diff(want, got, equate))
			}
		})
		for _, o := range objects {
			slices.Reverse(o.Endpoints)
		}
		if got := tracked(objects...); !slices.Equal(lines(got), lines(want)) {
			t.Fatalf("another order of endpoints gives another result: -want +got:\n%s", cmp.Diff(lines(want), lines(got)))
		}
	})
}

// checkMerged holds a merged record against the records of the single slices.
func checkMerged(t *testing.T, objects []*discovery.EndpointSlice, merged *Endpoints) {
	t.Helper()
	type id struct {
		name     string
		protocol proxy.Protocol
		addr     netip.AddrPort
	}
	all := map[id][]Endpoint{}
	for _, o := range objects {
		s := newSlice(o, web, "n1")
		for _, p := range s.ports {
			for _, e := range s.endpoints {
				e.Addr = netip.AddrPortFrom(e.Addr.Addr(), p.port)
				k := id{p.name, p.protocol, e.Addr}
				all[k] = append(all[k], e)
			}
		}
	}
	n := 0
	for _, p := range merged.Ports {
		for _, fam := range proxy.Families {
			var last netip.AddrPort
			for _, e := range p.Family(fam) {
				n++
				from := all[id{p.Name, p.Protocol, e.Addr}]
				living := slices.ContainsFunc(from, func(x Endpoint) bool { return !x.Terminating })
				if !slices.Contains(from, e) || e.Terminating && living || e.Addr.Compare(last) <= 0 || proxy.FamilyOf(e.Addr.Addr()) != fam {
					t.Fatalf("%s/%s: %+v after %v, made of %+v", p.Name, p.Protocol, e, last, from)
				}
				last = e.Addr
			}
		}
	}
	if n != len(all) {
		t.Fatalf("%d endpoints, want %d", n, len(all))
	}
}
