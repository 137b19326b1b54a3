package track

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/proxy"
)

// sliceObject makes an EndpointSlice of default/<service> with port http, 8080/TCP. An endpoint is addresses with commas, and
// words: on=<node>, ready=false, serving=…, terminating=true, and the hints zone=… and node=….
func sliceObject(service, name string, endpoints ...string) *discovery.EndpointSlice {
	s := &discovery.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discovery.LabelServiceName: service}},
		AddressType: discovery.AddressTypeIPv4,
		Ports:       []discovery.EndpointPort{slicePortObject("http", 8080, v1.ProtocolTCP)},
	}
	for _, text := range endpoints {
		s.Endpoints = append(s.Endpoints, endpointObject(text))
		if strings.Contains(strings.Fields(text + " ")[0], ":") {
			s.AddressType = discovery.AddressTypeIPv6
		}
	}
	return s
}

func slicePortObject(name string, port int32, p v1.Protocol) discovery.EndpointPort {
	return discovery.EndpointPort{Name: &name, Port: &port, Protocol: &p}
}

func endpointObject(text string) discovery.Endpoint {
	words := strings.Fields(text)
	e := discovery.Endpoint{Addresses: strings.Split(words[0], ",")}
	for _, w := range words[1:] {
		key, value, _ := strings.Cut(w, "=")
		yes := value == "true"
		switch key {
		case "on":
			e.NodeName = &value
		case "ready":
			e.Conditions.Ready = &yes
		case "serving":
			e.Conditions.Serving = &yes
		case "terminating":
			e.Conditions.Terminating = &yes
		case "zone", "node":
			if e.Hints == nil {
				e.Hints = &discovery.EndpointHints{}
			}
			if key == "zone" {
				e.Hints.ForZones = append(e.Hints.ForZones, discovery.ForZone{Name: value})
			} else {
				e.Hints.ForNodes = append(e.Hints.ForNodes, discovery.ForNode{Name: value})
			}
		default:
			panic("unexpected word " + w)
		}
	}
	return e
}

// lines shows a record, one line for each endpoint, with R, S, T, L for what it is.
func lines(e *Endpoints) []string {
	var out []string
	if e == nil {
		return nil
	}
	for _, p := range e.Ports {
		for _, fam := range proxy.Families {
			for _, ep := range p.Family(fam) {
				line := fmt.Sprintf("%s/%s %s ", p.Name, p.Protocol, ep.Addr)
				for i, is := range []bool{ep.Ready, ep.Serving, ep.Terminating, ep.Local} {
					if is {
						line += string("RSTL"[i])
					}
				}
				if ep.Hints != (Hints{}) {
					line += " " + ep.Hints.String()
				}
				out = append(out, line)
			}
		}
	}
	return out
}

// tracked returns the record of default/web after setting the slices in order.
func tracked(slices ...*discovery.EndpointSlice) *Endpoints {
	tr := NewEndpointsChangeTracker("n1")
	for _, s := range slices {
		tr.Set(s)
	}
	m, _ := tr.Snapshot()
	e, _ := m.Get(web)
	return e
}

func TestMerge(t *testing.T) {
	ports := func(s *discovery.EndpointSlice, ports ...discovery.EndpointPort) *discovery.EndpointSlice {
		s.Ports = ports
		return s
	}
	name, number := "http", int32(8080)
	label := func(s *discovery.EndpointSlice, key, value string) *discovery.EndpointSlice {
		s.Labels[key] = value
		return s
	}
	fqdn := sliceObject("web", "a", "10.1.0.1")
	fqdn.AddressType = discovery.AddressTypeFQDN
	tests := []struct {
		name   string
		slices []*discovery.EndpointSlice
		want   []string
	}{
		{"all slices of a Service are merged, sorted by address and port",
			[]*discovery.EndpointSlice{sliceObject("web", "a", "10.1.0.3", "10.1.0.10"), sliceObject("web", "b", "10.1.0.2"), sliceObject("other", "c", "10.1.0.1")},
			[]string{"http/TCP 10.1.0.2:8080 RS", "http/TCP 10.1.0.3:8080 RS", "http/TCP 10.1.0.10:8080 RS"}},
		{"families are apart",
			[]*discovery.EndpointSlice{sliceObject("web", "a", "fd00::1"), sliceObject("web", "b", "10.1.0.2")},
			[]string{"http/TCP 10.1.0.2:8080 RS", "http/TCP [fd00::1]:8080 RS"}},
		{"missing conditions: ready true, serving true, terminating false",
			[]*discovery.EndpointSlice{sliceObject("web", "a", "10.1.0.1", "10.1.0.2 ready=false", "10.1.0.3 serving=false",
				"10.1.0.4 terminating=true", "10.1.0.5 ready=true serving=true terminating=false")},
			[]string{"http/TCP 10.1.0.1:8080 RS", "http/TCP 10.1.0.2:8080 S", "http/TCP 10.1.0.3:8080 R", "http/TCP 10.1.0.4:8080 RST",
				"http/TCP 10.1.0.5:8080 RS"}},
		{"local: on the own node",
			[]*discovery.EndpointSlice{sliceObject("web", "a", "10.1.0.1 on=n1", "10.1.0.2 on=n2", "10.1.0.3")},
			[]string{"http/TCP 10.1.0.1:8080 RSL", "http/TCP 10.1.0.2:8080 RS", "http/TCP 10.1.0.3:8080 RS"}},
		{"hints are kept per endpoint",
			[]*discovery.EndpointSlice{sliceObject("web", "a", "10.1.0.1 zone=z2 zone=z1 zone=z2", "10.1.0.2 node=n1", "10.1.0.3")},
			[]string{"http/TCP 10.1.0.1:8080 RS zones=z1,z2 nodes=", "http/TCP 10.1.0.2:8080 RS zones= nodes=n1", "http/TCP 10.1.0.3:8080 RS"}},
		{"only the first address is used",
			[]*discovery.EndpointSlice{sliceObject("web", "a", "10.1.0.1,10.1.0.2")}, []string{"http/TCP 10.1.0.1:8080 RS"}},
		{"ports are by name and protocol; those without name or number are skipped",
			[]*discovery.EndpointSlice{ports(sliceObject("web", "a", "10.1.0.1"), slicePortObject("http", 8080, v1.ProtocolUDP),
				slicePortObject("b", 81, v1.ProtocolTCP), slicePortObject("", 80, v1.ProtocolTCP), slicePortObject("zero", 0, v1.ProtocolTCP),
				discovery.EndpointPort{Port: &number}, discovery.EndpointPort{Name: &name}, discovery.EndpointPort{Name: &name, Port: &number},
				slicePortObject("big", 65536, v1.ProtocolTCP), slicePortObject("x", 1, "ICMP"))},
			[]string{"/TCP 10.1.0.1:80 RS", "b/TCP 10.1.0.1:81 RS", "http/TCP 10.1.0.1:8080 RS", "http/UDP 10.1.0.1:8080 RS"}},
		{"the same address with other ports is not the same",
			[]*discovery.EndpointSlice{sliceObject("web", "a", "10.1.0.1"), ports(sliceObject("web", "b", "10.1.0.1"), slicePortObject("http", 81, v1.ProtocolTCP))},
			[]string{"http/TCP 10.1.0.1:81 RS", "http/TCP 10.1.0.1:8080 RS"}},
		{"a duplicate that is not terminating replaces one that is",
			[]*discovery.EndpointSlice{sliceObject("web", "a", "10.1.0.1 ready=false terminating=true on=n1"), sliceObject("web", "b", "10.1.0.1 on=n2")},
			[]string{"http/TCP 10.1.0.1:8080 RS"}},
		{"even if it is not ready",
			[]*discovery.EndpointSlice{sliceObject("web", "a", "10.1.0.1 ready=false terminating=true"), sliceObject("web", "b", "10.1.0.1 ready=false serving=false")},
			[]string{"http/TCP 10.1.0.1:8080 "}},
		{"of those that are not terminating, the ready one",
			[]*discovery.EndpointSlice{sliceObject("web", "a", "10.1.0.1 ready=false"), sliceObject("web", "b", "10.1.0.1")},
			[]string{"http/TCP 10.1.0.1:8080 RS"}},
		{"of equally ready ones, the serving one, then the local one, then the one with hints for nodes, for zones",
			[]*discovery.EndpointSlice{
				sliceObject("web", "a", "10.1.0.1 serving=false on=n1", "10.1.0.2 zone=z1", "10.1.0.3", "10.1.0.4 zone=z1", "10.1.0.5 zone=z2"),
				sliceObject("web", "b", "10.1.0.1", "10.1.0.2 on=n1", "10.1.0.3 zone=z1", "10.1.0.4 node=n1", "10.1.0.5 zone=z1")},
			[]string{"http/TCP 10.1.0.1:8080 RS", "http/TCP 10.1.0.2:8080 RSL", "http/TCP 10.1.0.3:8080 RS zones=z1 nodes=",
				"http/TCP 10.1.0.4:8080 RS zones= nodes=n1", "http/TCP 10.1.0.5:8080 RS zones=z1 nodes="}},
		{"slices of headless Services, of no Service and of host names are ignored",
			[]*discovery.EndpointSlice{label(sliceObject("web", "b", "10.1.0.2"), v1.IsHeadlessService, ""), fqdn, sliceObject("", "c", "10.1.0.3")}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			permute(tt.slices, func(order []*discovery.EndpointSlice) {
				if d := cmp.Diff(tt.want, lines(tracked(order...)), equate); d != "" {
					t.Errorf("-want +got:\n%s", d)
				}
			})
		})
	}
}

// permute calls fn with every order of a list.
func permute[T any](list []T, fn func([]T)) {
	var rec func(n int)
	rec = func(n int) {
		if n <= 1 {
			fn(list)
			return
		}
		for i := range n {
			list[i], list[n-1] = list[n-1], list[i]
			rec(n - 1)
			list[i], list[n-1] = list[n-1], list[i]
		}
	}
	rec(len(list))
}

// TestSliceProblems: each bad field is reported, and the rest of the slices is used.
func TestSliceProblems(t *testing.T) {
	bad := sliceObject("web", "b", "10.1.0.1", "10.1.0", "127.0.0.1", "fe80::1%eth0")
	bad.AddressType = discovery.AddressTypeIPv4
	bad.Endpoints = append(bad.Endpoints, discovery.Endpoint{}, endpointObject("fd00::1"))
	bad.Ports = append(bad.Ports, discovery.EndpointPort{}, slicePortObject("x", -1, v1.ProtocolTCP), slicePortObject("y", 1, "ICMP"))
	name := "all"
	bad.Ports = append(bad.Ports, discovery.EndpointPort{Name: &name})
	untyped := sliceObject("web", "a", "10.1.0.2")
	untyped.AddressType = "IPv5"
	want := []string{
		`a addressType="IPv5"`, `b ports[1].name=""`, `b ports[2].port="-1"`, `b ports[3].protocol="ICMP"`, `b ports[4].port=""`,
		`b endpoints[1].addresses[0]="10.1.0"`, `b endpoints[2].addresses[0]="127.0.0.1"`, `b endpoints[3].addresses[0]="fe80::1%eth0"`,
		`b endpoints[4].addresses[0]=""`, `b endpoints[5].addresses[0]="fd00::1"`,
	}
	permute([]*discovery.EndpointSlice{bad, untyped, sliceObject("web", "c", "10.1.0.3")}, func(order []*discovery.EndpointSlice) {
		e := tracked(order...)
		var got []string
		for _, p := range e.Problems {
			if p.Service != web || p.Remedy == "" {
				t.Errorf("problem %+v", p)
			}
			got = append(got, fmt.Sprintf("%s %s=%q", p.Slice, p.Field, p.Value))
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("problems: -want +got:\n%s", d)
		}
		if d := cmp.Diff([]string{"http/TCP 10.1.0.1:8080 RS", "http/TCP 10.1.0.3:8080 RS"}, lines(e)); d != "" {
			t.Errorf("endpoints: -want +got:\n%s", d)
		}
	})
}

func TestEndpointsPort(t *testing.T) {
	e := tracked(sliceObject("web", "a", "10.1.0.1"))
	if got := e.Port("http", proxy.TCP, proxy.IPv4); len(got) != 1 {
		t.Errorf("got %v, want one endpoint", got)
	}
	for what, got := range map[string][]Endpoint{
		"another name": e.Port("", proxy.TCP, proxy.IPv4), "another protocol": e.Port("http", proxy.UDP, proxy.IPv4),
		"another family": e.Port("http", proxy.TCP, proxy.IPv6), "no record": (*Endpoints)(nil).Port("http", proxy.TCP, proxy.IPv4),
	} {
		if len(got) != 0 {
			t.Errorf("%s: got %v, want none", what, got)
		}
	}
}

func TestHints(t *testing.T) {
	h := newHints([]string{"z2", "z1"}, []string{"n1"})
	if h != newHints([]string{"z1", "z2", "z1"}, []string{"n1"}) {
		t.Error("equal hints are not ==")
	}
	if newHints(nil, []string{}) != (Hints{}) {
		t.Error("empty hints are not the zero Hints")
	}
	for name, want := range map[string][2]bool{"z1": {true, false}, "z2": {true, false}, "z": {}, "n1": {false, true}, "": {}} {
		if got := [2]bool{h.Zone(name), h.Node(name)}; got != want {
			t.Errorf("%q: zone, node are %v, want %v", name, got, want)
		}
	}
	if !h.HasZones() || !h.HasNodes() || (Hints{}).HasZones() || (Hints{}).HasNodes() || (Hints{}).Zone("") || newHints(nil, []string{"n"}).HasZones() {
		t.Error("it is not told whether there are hints")
	}
}

func TestEndpointsString(t *testing.T) {
	got := tracked(sliceObject("web", "a", "10.1.0.1 on=n1 zone=z1 node=n1", "10.1.0.2 ready=false terminating=true")).String()
	want := `default/web problems=0
  http/TCP 10.1.0.1:8080 ready=true serving=true terminating=false local=true zones=z1 nodes=n1
  http/TCP 10.1.0.2:8080 ready=false serving=true terminating=true local=false zones= nodes=
`
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}
