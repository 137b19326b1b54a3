package lab

import (
	"strings"
	"testing"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

var untouched = [3]proxy.Action{}

// Verify agrees with a State that needs no proxy, as its frontend is the endpoint itself, and finds what one without a proxy
// does not do.
func TestVerify(t *testing.T) {
	l := ForTest(t)
	if err := l.ServeEndpoints(); err != nil {
		t.Fatal(err)
	}
	direct := proxytest.NewState(proxy.IPv4, proxytest.NewService("ns/direct/TCP",
		proxytest.At(proxy.ExternalIP, "10.244.1.2:8080", untouched), proxytest.On("10.244.1.2:8080")))
	for _, err := range l.Verify(direct, proxytest.Packets(direct, l.Cluster)) {
		if !strings.Contains(err.Error(), "10.96.") { // nobody drops those
			t.Error(err)
		}
	}
	for name, row := range map[string]struct {
		service *proxy.Service
		want    string
	}{
		"endpoint": {proxytest.NewService("ns/a/TCP", proxytest.At(proxy.ExternalIP, "10.244.1.2:8080", untouched),
			proxytest.On("10.244.1.3:8080")), "endpoint: got connected to pod-1"},
		"masquerade": {proxytest.NewService("ns/a/UDP", proxytest.At(proxy.ExternalIP, "10.244.1.2:8080", proxytest.External),
			proxytest.On("10.244.1.2:8080")), "not masqueraded: got connected to pod-1"},
		"reject": {proxytest.NewService("ns/a/SCTP", proxytest.At(proxy.ExternalIP, "10.244.1.2:8080", proxytest.RejectAll)),
			"result: got connected to pod-1 10.244.1.2:8080, which saw 192.168.50.100, want reject"},
		"forward": {proxytest.NewService("ns/a/TCP", proxytest.At(proxy.ExternalIP, "10.244.1.2:1", untouched),
			proxytest.On("10.244.1.3:8080")), "result: got refused, want forward"},
	} {
		s := proxytest.NewState(proxy.IPv4, row.service)
		p := proxytest.Packet{From: "client", Source: l.Client().Addr(proxy.IPv4), Interface: "eth0",
			Protocol: row.service.Name.Protocol, Destination: row.service.Frontends[0].Addr, Port: row.service.Frontends[0].Port}
		errs := l.Verify(s, []proxytest.Packet{p})
		if len(errs) != 1 || !strings.Contains(errs[0].Error(), row.want) {
			t.Errorf("%s: got %v, want %q", name, errs, row.want)
		}
	}
}
