package compare

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"turnout/e2e/cluster/compare/beside"
)

// Servers of a proxy, as seen from its node.
const (
	healthServer  = "http://127.0.0.1:10256"
	metricsServer = "http://127.0.0.1:10249"
)

// answer is what a server said, as far as it must be the same.
type answer struct {
	Status int
	Header map[string]string
	Body   string
}

// headers are those of answers that somebody may rely on.
var headers = []string{"Content-Type", "X-Content-Type-Options", "X-Load-Balancing-Endpoint-Weight"}

// get asks a server of one side. The status is 0 if nobody listens.
func get(t *testing.T, s *beside.Side, url string) answer {
	t.Helper()
	got, body, err := s.Get(url)
	if errors.Is(err, unix.ECONNREFUSED) {
		return answer{}
	}
	if err != nil {
		t.Fatalf("%s: %s: %v", s.Name, url, err)
	}
	a := answer{Status: got.StatusCode, Header: map[string]string{}, Body: body}
	for _, h := range headers {
		if v := got.Header.Get(h); v != "" {
			a.Header[h] = v
		}
	}
	return a
}

// same asks both for the same and reports differences of the answers, with their bodies made alike.
func (p *pair) same(t *testing.T, url string, alike func(string) string) {
	t.Helper()
	var got [2]answer
	for i, s := range []*beside.Side{p.upstream, p.turnout} {
		got[i] = get(t, s, url)
		// Turnout says of every page that it is what its type says.
		if got[i].Header["X-Content-Type-Options"] == "nosniff" && i == 1 && got[0].Header["X-Content-Type-Options"] == "" && strings.HasPrefix(url, metricsServer) {
			delete(got[i].Header, "X-Content-Type-Options")
		}
		if alike != nil {
			got[i].Body = alike(got[i].Body)
		}
	}
	if diff := cmp.Diff(got[0], got[1]); diff != "" {
		t.Errorf("%s (-kube-proxy +turnout):\n%s", url, diff)
	}
}

// eventuallySame is same, once the two had time to hear of a change.
func (p *pair) eventuallySame(t *testing.T, url string, alike func(string) string, want func(answer) bool) {
	t.Helper()
	for _, s := range p.sides() {
		for end := time.Now().Add(patience); !want(get(t, s, url)); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Errorf("%s: %s still answers %+v", s.Name, url, get(t, s, url))
				return
			}
		}
	}
	p.same(t, url, alike)
}

// nothing ignores a body.
func nothing(string) string { return "" }

// TestServers asks the metrics server and the health server of both for every page that kube-proxy has, and for some that it has not.
func TestServers(t *testing.T) {
	p := newPair(t, usual)
	t.Run("pages", func(t *testing.T) {
		for _, row := range []struct {
			url   string
			alike func(string) string
		}{
			{metricsServer + "/proxyMode", nil},
			{metricsServer + "/healthz", nil},
			{metricsServer + "/healthz/ping", nil},
			{metricsServer + "/healthz?verbose", nil},
			{metricsServer + "/healthz/nothing", nil},
			{metricsServer + "/livez", nil},
			{metricsServer + "/readyz", nil},
			{metricsServer + "/metrics", nothing},
			{metricsServer + "/metrics/slis", nothing},
			{metricsServer + "/configz", nothing},
			{metricsServer + "/flagz", nothing},
			{metricsServer + "/statusz", nothing},
			{metricsServer + "/debug/pprof/", nil},
			{metricsServer + "/debug/flags/v", nil},
			{metricsServer + "/nothing", nil},
			{metricsServer + "/", nil},
			{healthServer + "/healthz", shape},
			{healthServer + "/healthz?verbose", shape},
			{healthServer + "/livez", shape},
			{healthServer + "/healthz/", nil},
			{healthServer + "/metrics", nil},
			{healthServer + "/", nil},
		} {
			p.same(t, row.url, row.alike)
		}
	})
	t.Run("configz", func(t *testing.T) { p.sameConfigz(t) })
	t.Run("health checks", func(t *testing.T) { p.healthChecks(t) })
	t.Run("metrics", func(t *testing.T) { p.metrics(t) })
	t.Run("eligibility", func(t *testing.T) { p.eligibility(t) })
}

// shape is the body of a health server with its times replaced: it must be right in keys, their order, and values of all other kinds.
func shape(body string) string {
	var out strings.Builder
	decoder := json.NewDecoder(strings.NewReader(body))
	for {
		token, err := decoder.Token()
		if err != nil {
			break
		}
		if text, ok := token.(string); ok {
			if _, err := time.Parse(time.RFC3339Nano, text); err == nil {
				token = "TIME"
			}
		}
		fmt.Fprintf(&out, "%v ", token)
	}
	return out.String()
}

// eligibility taints the node as the cluster's autoscaler does before it removes it.
func (p *pair) eligibility(t *testing.T) {
	set := func(taints ...v1.Taint) {
		if err := p.PatchNode(t.Context(), p.turnout.Lab.Cluster.Node, map[string]any{"spec": map[string]any{"taints": taints}}); err != nil {
			t.Fatal(err)
		}
	}
	status := func(want int) func(answer) bool { return func(a answer) bool { return a.Status == want } }
	set(v1.Taint{Key: "ToBeDeletedByClusterAutoscaler", Effect: v1.TaintEffectNoSchedule})
	p.eventuallySame(t, healthServer+"/healthz", shape, status(http.StatusServiceUnavailable))
	p.eventuallySame(t, healthServer+"/livez", shape, status(http.StatusOK))
	set(v1.Taint{Key: "node.kubernetes.io/unschedulable", Effect: v1.TaintEffectNoSchedule})
	p.eventuallySame(t, healthServer+"/healthz", shape, status(http.StatusOK))
	set()
}

// healthChecks asks the Services' health-check node ports, with different numbers of local endpoints.
func (p *pair) healthChecks(t *testing.T) {
	c := p.turnout.Lab.Cluster
	leaving := conditions(false, true, true)
	for _, row := range []struct {
		name      string
		endpoints []endpointAt
		weight    string
	}{
		{"two here", []endpointAt{on("pod-1"), on("pod-2"), on("pod-5")}, "2"},
		{"elsewhere", []endpointAt{on("pod-5")}, "0"},
		{"leaving", []endpointAt{on("pod-1", leaving), on("pod-2", leaving)}, "0"},
		{"one leaves", []endpointAt{on("pod-1", leaving), on("pod-2")}, "1"},
		{"not ready", []endpointAt{on("pod-1", conditions(false, false, false))}, "0"},
		{"in the host's network", []endpointAt{on("n1")}, "1"},
		{"none", nil, "0"},
	} {
		s := service(1, "health", externalLocal)
		p.set(with(c, s, row.endpoints...)...)
		for _, at := range []string{"192.168.50.1", "[fd50::1]"} {
			for _, path := range []string{"/", "/anything?x=y"} {
				url := fmt.Sprintf("http://%s:%d%s", at, s.Spec.HealthCheckNodePort, path)
				p.eventuallySame(t, url, nil, func(a answer) bool { return a.Header[headers[2]] == row.weight })
			}
		}
	}
	// A port of another number, and then a Service without one: nobody listens on the old port any more.
	moved := service(1, "health", externalLocal, func(s *v1.Service) { s.Labels = map[string]string{"moved": "yes"} })
	moved.Spec.HealthCheckNodePort = 32500
	p.set(moved)
	p.eventuallySame(t, "http://192.168.50.1:32500/", nil, func(a answer) bool { return a.Status != 0 })
	closed := func(a answer) bool { return a.Status == 0 }
	p.eventuallySame(t, "http://192.168.50.1:32001/", nil, closed)
	p.set(service(1, "health"))
	p.eventuallySame(t, "http://192.168.50.1:32500/", nil, closed)
	p.follow(p.Clear(t.Context()))
}

// sameConfigz compares what the two say that their configuration is.
func (p *pair) sameConfigz(t *testing.T) {
	var got [2]map[string]any
	for i, s := range []*beside.Side{p.upstream, p.turnout} {
		var page map[string]map[string]any
		if err := json.Unmarshal([]byte(get(t, s, metricsServer+"/configz").Body), &page); err != nil || len(page) != 1 {
			t.Fatalf("%s: %d configurations, %v", s.Name, len(page), err)
		}
		got[i] = page["kubeproxy.config.k8s.io"]
	}
	sameConfigs(t, got[0], got[1])
}
