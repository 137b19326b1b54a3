package desired

import (
	"fmt"
	"net/netip"
	"testing"

	"turnout/proxy"
	"turnout/proxy/hamt"
	"turnout/proxy/track"
)

// manyServices makes n Services of one port with 5 endpoints each.
func manyServices(n int) Input {
	in := Input{Facts: testFacts()}
	for i := range n {
		s, e := oneOfMany(i)
		in.Services = in.Services.Set(s.Name, s)
		in.Endpoints = in.Endpoints.Set(e.Name, e)
	}
	return in
}

func oneOfMany(i int) (*track.Service, *track.Endpoints) {
	name := proxy.ServiceName{Namespace: fmt.Sprintf("ns-%d", i%100), Name: fmt.Sprintf("service-%d", i)}
	s := &track.Service{
		Name:       name,
		ClusterIPs: [2]netip.Addr{netip.AddrFrom4([4]byte{10, 96 + byte(i>>16), byte(i >> 8), byte(i)})},
		Ports:      []track.ServicePort{{Name: "http", Protocol: proxy.TCP, Port: 80}},
	}
	e := &track.Endpoints{Name: name, Ports: []track.EndpointPort{{Name: "http", Protocol: proxy.TCP}}}
	for j := range 5 {
		k := i*5 + j
		e.Ports[0].Families[0] = append(e.Ports[0].Families[0], track.Endpoint{
			Addr:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(k >> 16), byte(k >> 8), byte(k)}), 8080),
			Ready: true, Serving: true, Local: j == 0,
		})
	}
	return s, e
}

func BenchmarkBuild(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 30_000} {
		b.Run(fmt.Sprintf("%d services of 5 endpoints", n), func(b *testing.B) {
			in := manyServices(n)
			b.ReportAllocs()
			for b.Loop() {
				if r := Build(nil, in); r.States[proxy.IPv4].Services.Len() != n {
					b.Fatal("services are missing")
				}
			}
		})
	}
}

func BenchmarkBuildOneChange(b *testing.B) {
	in := manyServices(30_000)
	prev := Build(nil, in)
	_, full := oneOfMany(12_345)
	less := *full
	less.Ports = []track.EndpointPort{full.Ports[0]}
	less.Ports[0].Families[0] = full.Ports[0].Families[0][1:]
	versions := [2]hamt.Map[proxy.ServiceName, *track.Endpoints]{in.Endpoints.Set(full.Name, full), in.Endpoints.Set(full.Name, &less)}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		in.Endpoints = versions[i%2]
		r := Build(prev, in)
		if r.States[proxy.IPv4] == prev.States[proxy.IPv4] && i > 0 {
			b.Fatal("the change is missing")
		}
		prev = r
	}
}
