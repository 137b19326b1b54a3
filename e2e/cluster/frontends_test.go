package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"turnout/proxy"
	"turnout/proxy/proxytest/expect"
)

// situation is a Service, and what becomes of connections to each of its addresses from each origin.
type situation struct {
	service *v1.Service
	pods    []string
	// internal is for the ClusterIP, external for all other addresses; by origin.
	internal, external map[string]expectation
}

// situations are the policies; pod-2 is on the node, pod-5 on the other one.
func situations() []situation {
	both := []string{"pod-2", "pod-5"}
	here := map[string]expectation{localPod: kept("pod-2"), remotePod: kept("pod-2"), thisNode: masqueraded("pod-2"), outside: masqueraded("pod-2")}
	return []situation{
		{full("cluster"), both,
			map[string]expectation{localPod: kept(both...), remotePod: kept(both...), thisNode: masqueraded(both...), outside: masqueraded(both...)},
			same(masqueraded(both...))},
		{full("local-here", internalLocal, externalLocal), both, here,
			map[string]expectation{localPod: kept(both...), remotePod: kept(both...), thisNode: masqueraded(both...), outside: kept("pod-2")}},
		{full("local-elsewhere", internalLocal, externalLocal), []string{"pod-5"}, same(dropped),
			map[string]expectation{localPod: kept("pod-5"), remotePod: kept("pod-5"), thisNode: masqueraded("pod-5"), outside: dropped}},
		{full("internal-local", internalLocal), both, here, same(masqueraded(both...))},
		{full("none"), nil, same(refused), same(refused)},
		{full("none-local", internalLocal, externalLocal), nil, same(refused), same(refused)},
		{full("not-ready"), []string{"!pod-2"}, same(refused), same(refused)},
	}
}

// TestFrontends sends packets from every origin to every kind of address, under every policy.
func TestFrontends(t *testing.T) {
	s := sharedScene(t)
	table := situations()
	for i := range table {
		table[i].service = s.create(table[i].service, table[i].pods...)
	}
	s.follow()
	var probes []probe
	for _, row := range table {
		for _, origin := range origins {
			for _, f := range proxy.Families {
				probes = append(probes, s.cells(row, origin, f)...)
			}
		}
	}
	s.probe(t, probes...)
}

// cells are the probes of a situation, from one origin and in one family.
func (s *scene) cells(row situation, origin string, f proxy.Family) (out []probe) {
	for _, kind := range []proxy.Kind{proxy.ClusterIP, proxy.NodePort, proxy.ExternalIP, proxy.LoadBalancerIP} {
		want := row.external[origin]
		if kind == proxy.ClusterIP {
			want = row.internal[origin]
		}
		protocols := []proxy.Protocol{proxy.TCP}
		if (kind == proxy.ClusterIP && origin == localPod) || (kind == proxy.NodePort && origin == outside) {
			protocols = []proxy.Protocol{proxy.TCP, proxy.UDP, proxy.SCTP}
		}
		for _, p := range protocols {
			name := fmt.Sprintf("%s, %s", row.service.Name, kind)
			out = append(out, probe{name, origin, 0, p, s.address(row.service, kind, f, p), want})
		}
	}
	return out
}

// TestSourceRanges connects to a load-balancer IP from inside and outside of its source ranges, and to the ClusterIP, for which they
// do not count.
func TestSourceRanges(t *testing.T) {
	s := sharedScene(t)
	service := s.create(full("ranges", sourceRanges("192.168.50.100/32", "10.244.1.2/32", "fd50::100/128", "fd00:10:244:1::2/128")), "pod-2")
	s.follow()
	var probes []probe
	for _, f := range proxy.Families {
		vip, inside := s.address(service, proxy.LoadBalancerIP, f, proxy.TCP), s.clusterIP(service, f)
		probes = append(probes,
			probe{"allowed", outside, 0, proxy.TCP, vip, masqueraded("pod-2")},
			probe{"another address", outside, 1, proxy.TCP, vip, dropped},
			probe{"allowed pod", localPod, 0, proxy.TCP, vip, masqueraded("pod-2")},
			probe{"another pod", "pod-3", 0, proxy.TCP, vip, dropped},
			probe{"ClusterIP", outside, 1, proxy.TCP, inside, masqueraded("pod-2")})
	}
	s.probe(t, probes...)
	s.edit("ranges", sourceRanges("192.168.50.101/32", "fd50::101/128"))
	s.follow()
	for _, f := range proxy.Families {
		vip := s.address(service, proxy.LoadBalancerIP, f, proxy.TCP)
		s.probe(t,
			probe{"no longer allowed", outside, 0, proxy.TCP, vip, dropped},
			probe{"allowed now", outside, 1, proxy.TCP, vip, masqueraded("pod-2")})
	}
}

// TestAffinity has clients stay with an endpoint while the Service says so, and no longer.
func TestAffinity(t *testing.T) {
	s := sharedScene(t)
	service := s.create(plain("sticky", sticky), "pod-2", "pod-3", "pod-5")
	s.follow()
	servers := func(f proxy.Family) map[string]bool {
		seen := map[string]bool{}
		p := s.probeOf(probe{from: localPod, protocol: proxy.TCP, to: s.clusterIP(service, f)})
		for range expect.Attempts {
			got := p.Dial(expect.Patiently)
			if got.Server == "" {
				t.Fatal(got)
			}
			seen[got.Server] = true
		}
		return seen
	}
	for _, f := range proxy.Families {
		if seen := servers(f); len(seen) != 1 {
			t.Errorf("%s: reached %v, want always the same", f, seen)
		}
	}
	s.edit("sticky", func(s *v1.Service) {
		s.Spec.SessionAffinity, s.Spec.SessionAffinityConfig = v1.ServiceAffinityNone, nil
	})
	s.follow()
	for _, f := range proxy.Families {
		if seen := servers(f); len(seen) != 3 {
			t.Errorf("%s without affinity: reached %v, want all three", f, seen)
		}
	}
}

// TestHealthCheckNodePort asks the ports that the API server gave Services for external load balancers.
func TestHealthCheckNodePort(t *testing.T) {
	s := sharedScene(t)
	here, elsewhere := s.create(full("here", externalLocal), "pod-1", "pod-2"), s.create(full("elsewhere", externalLocal), "pod-5")
	s.follow()
	ask := func(service *v1.Service, want int, endpoints string) {
		t.Helper()
		for _, f := range proxy.Families {
			url := fmt.Sprintf("http://%s/", s.nodeAt(f, service.Spec.HealthCheckNodePort))
			eventually(t, url+" answers", func() string {
				status, body, err := fetch(s.Client(), url)
				if err != nil {
					return err.Error()
				}
				if status != want || !strings.Contains(body, `"localEndpoints":`+endpoints) && !strings.Contains(body, `"localEndpoints": `+endpoints) {
					return fmt.Sprintf("status %d: %s, want %d and %s endpoints", status, body, want, endpoints)
				}
				return ""
			})
		}
	}
	ask(here, http.StatusOK, "2")
	ask(elsewhere, http.StatusServiceUnavailable, "0")
	s.run("elsewhere", "pod-3")
	s.follow()
	ask(elsewhere, http.StatusOK, "1")
}

// nodeAt is a port of the node's primary address.
func (s *scene) nodeAt(f proxy.Family, port int32) string {
	a := s.Node().Addr(f).String()
	if f == proxy.IPv6 {
		a = "[" + a + "]"
	}
	return fmt.Sprintf("%s:%d", a, port)
}

// TestKubernetesService has a pod, the node and a machine outside reach the API server itself through the Service that it makes for that.
func TestKubernetesService(t *testing.T) {
	s := sharedScene(t)
	authority, err := os.ReadFile(s.plane.Path("ca.crt"))
	must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	for _, from := range []string{localPod, thisNode, outside} {
		client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
			DisableKeepAlives: true, DialContext: s.Host(from).DialContext, TLSClientConfig: &tls.Config{RootCAs: pool},
		}}
		answer, err := client.Get("https://10.96.0.1/version")
		if err != nil {
			t.Errorf("from %s: %v", from, err)
			continue
		}
		body, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || !strings.Contains(string(body), `"gitVersion": "v1.`) {
			t.Errorf("from %s: %v, %s", from, err, body)
		}
	}
}
