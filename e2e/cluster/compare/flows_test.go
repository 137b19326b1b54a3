package compare

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/e2e/cluster/compare/beside"
	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// changes are those of a Service's endpoints while connections go on.
var changes = []struct {
	name          string
	before, after []endpointAt
}{
	{"replaced", []endpointAt{on("pod-2")}, []endpointAt{on("pod-3")}},
	{"another one elsewhere", []endpointAt{on("pod-2")}, []endpointAt{on("pod-5")}},
	{"leaves and another comes", []endpointAt{on("pod-2")}, []endpointAt{on("pod-2", conditions(false, true, true)), on("pod-3")}},
	{"leaves as the last", []endpointAt{on("pod-2")}, []endpointAt{on("pod-2", conditions(false, true, true))}},
	{"not ready any more", []endpointAt{on("pod-2")}, []endpointAt{on("pod-2", conditions(false, false, false)), on("pod-3")}},
	{"one more", []endpointAt{on("pod-2")}, []endpointAt{on("pod-2"), on("pod-3")}},
	{"none any more", []endpointAt{on("pod-2")}, nil},
}

// TestFlows keeps connections going while the endpoints of their Service change. With either proxy they must be answered by the same
// servers before and after: UDP flows leave endpoints that are gone, and TCP connections are left alone.
func TestFlows(t *testing.T) {
	p := newPair(t, usual)
	c := p.turnout.Lab.Cluster
	services := make([]*v1.Service, len(changes))
	var before, after []metav1.Object
	for i, row := range changes {
		services[i] = service(i+1, strings.ReplaceAll(row.name, " ", "-"))
		before = append(before, with(c, services[i], row.before...)...)
		after = append(after, with(c, services[i], row.after...)...)
	}
	p.set(before...)
	turnout, upstream := openEverywhere(t, p.turnout, before), openEverywhere(t, p.upstream, before)
	p.set(after...)
	var differ []string
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		differ = differences(turnout, upstream)
		if len(differ) == 0 || time.Now().After(end) {
			break
		}
	}
	for _, d := range differ {
		t.Error(d)
	}
	var wait sync.WaitGroup
	for _, f := range slices.Concat(turnout, upstream) {
		wait.Go(func() { f.Stop() })
	}
	wait.Wait()
}

// differences lists flows that go another way in one lab than in the other.
func differences(turnout, upstream []*flow) (out []string) {
	a, b := servers(turnout), servers(upstream)
	for i, f := range turnout {
		// Of a Service that has no endpoint any more kube-proxy forgets the NodePorts.
		meant := f.service == "default/none-any-more" && f.kind == "NodePort" && f.Protocol == proxy.UDP
		if (a[i] == b[i]) == meant {
			out = append(out, fmt.Sprintf("%v: turnout %s, kube-proxy %s", f.packet, a[i], b[i]))
		}
	}
	return out
}

// flow is a connection to an address of a Service.
type flow struct {
	*lab.Flow
	packet
}

// openEverywhere opens flows from several hosts to every address of a Service.
func openEverywhere(t *testing.T, s *beside.Side, objects []metav1.Object) (out []*flow) {
	t.Helper()
	for _, p := range packets(s.Lab.Cluster, objects) {
		first := p.Source == s.Lab.Cluster.Host(p.From).Addr(p.family())
		if !first || !slices.Contains([]string{"client", "pod-1", "n1"}, p.From) || p.service == "" || p.Protocol == proxy.SCTP ||
			p.kind == undefined || p.kind == "NodePort" && p.Destination != s.Lab.Cluster.Hosts[0].Addr(p.family()) {
			continue
		}
		f, err := s.Lab.Host(p.From).Flow(p.Protocol, netip.AddrPortFrom(p.Destination, p.Port), 100*time.Millisecond)
		if err != nil {
			t.Fatalf("%s: %v: %v", s.Name, p, err)
		}
		out = append(out, &flow{f, p})
	}
	if len(out) < 40*len(changes) {
		t.Fatalf("only %d flows", len(out))
	}
	return out
}

// servers tells of each flow who answered, and whether it is still answered.
func servers(flows []*flow) (out []string) {
	before := make([]lab.FlowReport, len(flows))
	for i, f := range flows {
		before[i] = f.Report()
	}
	time.Sleep(time.Second) // longer than a flow waits for one answer
	for i, f := range flows {
		r := f.Report()
		out = append(out, fmt.Sprintf("answered by %v, goes on: %v", r.Servers, r.Answered > before[i].Answered))
	}
	return out
}
