package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"

	"turnout/healthcheck"
	"turnout/proxy/proxytest/objects"
)

// mustGet asks a server of the proxy from the node.
func (p *process) mustGet(t *testing.T, address, path string) *response {
	t.Helper()
	got, err := p.get(address, path)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// Addresses of the proxy's servers, as seen from the node.
const (
	metricsServer = "127.0.0.1:10249"
	healthServer  = "127.0.0.1:10256"
)

// TestDebugServer reads every page of the metrics server.
func TestDebugServer(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.set(c.with(newService(1, "web"), on("pod-2"))...)
	p := c.start()
	for _, row := range []struct {
		path   string
		status int
		typ    string
		body   []string // what it has
	}{
		{"/proxyMode", 200, "text/plain; charset=utf-8", []string{"nftables"}},
		{"/healthz", 200, "text/plain; charset=utf-8", []string{"ok"}},
		{"/healthz?verbose", 200, "text/plain; charset=utf-8", []string{"ping ok", "healthz check passed"}},
		{"/healthz/ping", 200, "text/plain; charset=utf-8", []string{"ok"}},
		{"/configz", 200, "application/json", []string{`"kubeproxy.config.k8s.io"`, `"clusterCIDR":"10.244.0.0/16,fd00:10:244::/48"`, `"mode":"nftables"`}},
		{"/statusz", 200, "text/plain; charset=utf-8", []string{"Binary version: ", "Up: 0 hr", "/metrics"}},
		{"/metrics/slis", 200, "", nil},
		{"/debug/state", 200, "text/plain; charset=utf-8", []string{"IPv4\n", "IPv6\n", "default/web:port-0/TCP\n"}},
		{"/debug/pprof/", 404, "", nil},
		{"/debug/flags/v", 404, "", nil},
		{"/nothing", 404, "", nil},
	} {
		t.Run(row.path, func(t *testing.T) {
			got := p.mustGet(t, metricsServer, row.path)
			if got.status != row.status || (row.typ != "" && got.header.Get("Content-Type") != row.typ) {
				t.Errorf("status %d, content type %q, want %d, %q", got.status, got.header.Get("Content-Type"), row.status, row.typ)
			}
			for _, want := range row.body {
				if !strings.Contains(got.body, want) {
					t.Errorf("body without %q:\n%s", want, got.body)
				}
			}
		})
	}
	t.Run("/flagz", func(t *testing.T) { flagz(t, p) })
	t.Run("/metrics", func(t *testing.T) { samples(t, p) })
	t.Run("only on the node", func(t *testing.T) {
		if got, err := fetch(c.Client(), http.MethodGet, "192.168.50.1:10249", "/metrics", nil); err == nil {
			t.Errorf("answers with status %d from outside", got.status)
		}
	})
}

// flagz reads the flags in both forms.
func flagz(t *testing.T, p *process) {
	text := p.mustGet(t, metricsServer, "/flagz")
	if text.status != http.StatusOK || !strings.Contains(text.body, "hostname-override=n1\n") {
		t.Errorf("status %d, body:\n%s", text.status, text.body)
	}
	header := http.Header{"Accept": {"application/json;g=config.k8s.io;v=v1beta1;as=Flagz"}}
	got, err := fetch(p.Node(), http.MethodGet, metricsServer, "/flagz", header)
	if err != nil {
		t.Fatal(err)
	}
	var page struct {
		Kind  string
		Flags map[string]string
	}
	if err := json.Unmarshal([]byte(got.body), &page); err != nil || page.Kind != "Flagz" || page.Flags["proxy-mode"] != "nftables" {
		t.Errorf("%v: %s", err, got.body)
	}
}

// samples waits for metrics whose values are known: they follow soon after the kernel.
func samples(t *testing.T, p *process) {
	for name, want := range map[string]float64{
		`turnout_services{ip_family="IPv4"}`:                                            4, // with the mark of the harness
		`turnout_services{ip_family="IPv6"}`:                                            4,
		`turnout_endpoints{ip_family="IPv4"}`:                                           3,
		`turnout_programmed{ip_family="IPv4"}`:                                          1,
		`turnout_programmed{ip_family="IPv6"}`:                                          1,
		`turnout_rejected_services{ip_family="IPv4"}`:                                   0,
		`turnout_full_syncs_total{ip_family="IPv4",reason="start"}`:                     1,
		`turnout_manifest_problems`:                                                     0,
		`kubeproxy_sync_proxy_rules_service_changes_pending`:                            0,
		`kubernetes_feature_enabled{name="AllowServiceExternalIPs",stage="DEPRECATED"}`: 1,
	} {
		p.until(name, want)
	}
	got, err := p.metrics()
	if err != nil {
		t.Fatal(err)
	}
	if got[`kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv6"}`] < 1 {
		t.Error("no sync of IPv6 was measured")
	}
}

// TestProfiling serves profiles if it is told to.
func TestProfiling(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	p := c.start("--profiling")
	for path, want := range map[string]string{"/debug/pprof/": "goroutine", "/debug/flags": "v", "/debug/pprof/goroutine?debug=1": "goroutine profile"} {
		if got := p.mustGet(t, metricsServer, path); got.status != http.StatusOK || !strings.Contains(got.body, want) {
			t.Errorf("%s: status %d, want %q in:\n%.300s", path, got.status, want, got.body)
		}
	}
}

// TestHealthServer asks for the proxy's health while its Node is as it should be, tainted, and gone.
func TestHealthServer(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	p := c.start()
	plain, tainted := objects.Node(c.Cluster), objects.Node(c.Cluster)
	tainted.Spec.Taints = []v1.Taint{{Key: healthcheck.ToBeDeletedTaint, Effect: v1.TaintEffectNoSchedule}}
	for _, row := range []struct {
		name  string
		apply func()
		want  map[string]int
	}{
		{"as it should be", func() {}, map[string]int{"/healthz": 200, "/livez": 200, "/readyz": 200}},
		{"about to be deleted", func() { c.set(tainted) }, map[string]int{"/healthz": 503, "/livez": 200, "/readyz": 200}},
		{"saved", func() { c.set(plain) }, map[string]int{"/healthz": 200, "/livez": 200, "/readyz": 200}},
		{"unknown", func() { c.remove(plain) }, map[string]int{"/healthz": 503, "/livez": 200, "/readyz": 200}},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.apply()
			p.follow()
			got := map[string]int{}
			for path := range row.want {
				answer := p.mustGet(t, healthServer, path)
				got[path] = answer.status
				if typ := answer.header.Get("Content-Type"); typ != "application/json" {
					t.Errorf("%s: content type %q", path, typ)
				}
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	t.Run("body", func(t *testing.T) { healthBody(t, c, p) })
}

// healthBody checks what /healthz tells monitoring, from outside as cloud load balancers ask.
func healthBody(t *testing.T, c *cluster, p *process) {
	c.set(objects.Node(c.Cluster))
	p.follow()
	got, err := fetch(c.Client(), http.MethodGet, "192.168.50.1:10256", "/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	var body map[string]any
	if err := json.Unmarshal([]byte(got.body), &body); err != nil {
		t.Fatalf("%v: %s", err, got.body)
	}
	if body["healthy"] != true || body["nodeEligible"] != true || body["lastUpdated"] != body["currentTime"] {
		t.Errorf("body %s", got.body)
	}
	status, _ := body["status"].(map[string]any)
	if len(status) != 2 || status["IPv4"] == nil || status["IPv6"] == nil {
		t.Errorf("status of families: %v", status)
	}
}

// TestOtherAddresses has the servers listen elsewhere.
func TestOtherAddresses(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	p := c.launch("--healthz-bind-address=192.168.50.1:8081", "--metrics-bind-address=[::1]:8082")
	eventually(t, "ready", func() bool {
		got, err := p.get("192.168.50.1:8081", "/readyz")
		return err == nil && got.status == http.StatusOK
	})
	if got := p.mustGet(t, "[::1]:8082", "/proxyMode"); got.body != "nftables" {
		t.Errorf("mode %q", got.body)
	}
	for _, address := range []string{metricsServer, healthServer} {
		if got, err := p.get(address, "/healthz"); err == nil {
			t.Errorf("%s answers with status %d", address, got.status)
		}
	}
}

// TestStop leaves the rules in place: Services are served while no proxy runs.
func TestStop(t *testing.T) {
	t.Parallel()
	c, s := oneService(t)
	p := c.start()
	p.stop()
	var probes []probe
	for _, k := range everyKind {
		probes = append(probes, c.bothFamilies(k.String(), c.from(outside), c.of(s, k), masqueraded("pod-2"))...)
	}
	c.probe(t, probes...)
	t.Run("cleanup", func(t *testing.T) {
		c.cleanUp()
		c.check(t, c.from(outside), probes[0].protocol, c.of(s, everyKind[1])(4), refused)
	})
}
