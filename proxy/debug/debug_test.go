package debug

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2"
	"k8s.io/kube-proxy/config/v1alpha1"
	"sigs.k8s.io/yaml"
)

var started = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func testOptions() Options {
	return Options{
		Mode:             func() string { return "nftables" },
		Flags:            func() map[string]string { return map[string]string{"v": "2", "config": "/etc/proxy.yaml"} },
		State:            func(w io.Writer) error { _, err := io.WriteString(w, "state of IPv4\n"); return err },
		BinaryVersion:    "v1.2.3",
		EmulationVersion: "1.37",
		Started:          started,
		Now:              func() time.Time { return started.Add(90*time.Minute + 5*time.Second) },
	}
}

func ask(h http.Handler, method, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// expect checks an answer in plain text.
func expect(t *testing.T, w *httptest.ResponseRecorder, code int, body string) {
	t.Helper()
	type answer struct {
		Code                       int
		ContentType, Sniffed, Body string
	}
	got := answer{w.Code, w.Header().Get("Content-Type"), w.Header().Get("X-Content-Type-Options"), w.Body.String()}
	if diff := cmp.Diff(answer{code, "text/plain; charset=utf-8", "nosniff", body}, got); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
}

func TestProxyMode(t *testing.T) {
	mode := "nftables"
	o := testOptions()
	o.Mode = func() string { return mode }
	h := Handler(o)
	expect(t, ask(h, "GET", "/proxyMode"), 200, "nftables")
	mode = "iptables" // modes can change while running
	expect(t, ask(h, "GET", "/proxyMode"), 200, "iptables")
}

func TestHealthz(t *testing.T) {
	h := Handler(testOptions())
	expect(t, ask(h, "GET", "/healthz"), 200, "ok")
	expect(t, ask(h, "GET", "/healthz/ping"), 200, "ok")
	expect(t, ask(h, "GET", "/healthz?verbose"), 200, "[+]ping ok\nhealthz check passed\n")
	expect(t, ask(h, "GET", "/healthz?verbose&exclude=ping"), 200, "[+]ping excluded: ok\nhealthz check passed\n")
	expect(t, ask(h, "GET", "/healthz?verbose=1&exclude=etcd"), 200,
		"[+]ping ok\nwarn: some health checks cannot be excluded: no matches for [\"etcd\"]\nhealthz check passed\n")
}

func TestMetrics(t *testing.T) {
	h := Handler(testOptions())
	body := ask(h, "GET", "/metrics").Body.String()
	for _, name := range []string{"go_goroutines ", "process_start_time_seconds ", "registered_metrics_total{"} {
		if !strings.Contains(body, "\n"+name) {
			t.Errorf("/metrics has no %s", name)
		}
	}
	ask(h, "GET", "/healthz")
	slis := ask(h, "GET", "/metrics/slis").Body.String()
	for _, want := range []string{
		`kubernetes_healthcheck{name="ping",type="healthz"} 1`, `kubernetes_healthchecks_total{name="ping",status="success",type="healthz"} `,
	} {
		if !strings.Contains(slis, want) {
			t.Errorf("/metrics/slis has no %s:\n%s", want, slis)
		}
	}
	o := testOptions()
	o.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { text(w, 200, "mine") })
	expect(t, ask(Handler(o), "GET", "/metrics"), 200, "mine")
}

func TestConfigz(t *testing.T) {
	h := Handler(testOptions())
	for _, mode := range []v1alpha1.ProxyMode{"iptables", "nftables"} { // the later one replaces the earlier
		c := &v1alpha1.KubeProxyConfiguration{Mode: mode, ClusterCIDR: "10.244.0.0/16"}
		if err := PublishConfig(c); err != nil {
			t.Fatal(err)
		}
		if c.Kind != "" {
			t.Error("PublishConfig changed what it was given")
		}
		w := ask(h, "GET", "/configz")
		var got map[string]v1alpha1.KubeProxyConfiguration
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatalf("%v in %s", err, w.Body)
		}
		c.Kind, c.APIVersion = "KubeProxyConfiguration", "kubeproxy.config.k8s.io/v1alpha1"
		if diff := cmp.Diff(map[string]v1alpha1.KubeProxyConfiguration{"kubeproxy.config.k8s.io": *c}, got); diff != "" {
			t.Errorf("/configz (-want +got):\n%s", diff)
		}
		if got := w.Header().Get("Content-Type"); got != "application/json" {
			t.Errorf("Content-Type = %q", got)
		}
	}
}

func TestState(t *testing.T) {
	h := Handler(testOptions())
	expect(t, ask(h, "GET", "/debug/state"), 200, "state of IPv4\n")
	w := ask(h, "POST", "/debug/state")
	expect(t, w, 405, "only GET and HEAD are allowed here\n")
	if got := w.Header().Get("Allow"); got != "GET, HEAD" {
		t.Errorf("Allow = %q", got)
	}
	o := testOptions()
	o.State = func(w io.Writer) error { _, _ = io.WriteString(w, "half"); return errors.New("no more") }
	expect(t, ask(Handler(o), "GET", "/debug/state"), 200, "half\nthe rest is missing: no more\n")
}

func TestProfilingOnlyWhenAskedFor(t *testing.T) {
	o := testOptions()
	paths := []string{"/debug/pprof", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/symbol", "/debug/flags", "/debug/flags/"}
	for _, path := range append(paths, "/debug/flags/v", "/debug/pprof/profile", "/debug/pprof/trace") {
		if w := ask(Handler(o), "GET", path); w.Code != 404 {
			t.Errorf("GET %s = %d without profiling, want 404", path, w.Code)
		}
	}
	o.Profiling = true
	for _, path := range paths {
		if w := ask(Handler(o), "GET", path); w.Code != 200 && w.Header().Get("Location") != "/debug/pprof/" {
			t.Errorf("GET %s = %d with profiling", path, w.Code)
		}
	}
}

func TestSetVerbosity(t *testing.T) {
	o := testOptions()
	o.Profiling = true
	h := Handler(o)
	put := func(body string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("PUT", "/debug/flags/v", strings.NewReader(body)))
		return w
	}
	t.Cleanup(func() { put("0") })
	expect(t, put("7"), 200, "successfully set klog.logging.verbosity to 7\n")
	if !klog.V(7).Enabled() || klog.V(8).Enabled() {
		t.Error("the log level is not 7")
	}
	for _, body := range []string{"many", "-1", "", strings.Repeat("9", 100)} {
		if w := put(body); w.Code != 400 || !strings.Contains(w.Body.String(), "the log level") {
			t.Errorf("PUT %q = %d %s, want 400", body, w.Code, w.Body)
		}
	}
	if w := ask(h, "GET", "/debug/flags/v"); w.Code != 405 || w.Header().Get("Allow") != "PUT" {
		t.Errorf("GET = %d, Allow %q, want 405 and PUT", w.Code, w.Header().Get("Allow"))
	}
}

func TestWhatIsNotGivenIsNotServed(t *testing.T) {
	o := testOptions()
	o.Flags, o.State = nil, nil
	for _, path := range []string{"/flagz", "/debug/state", "/", "/nothing"} {
		if w := ask(Handler(o), "GET", path); w.Code != 404 {
			t.Errorf("GET %s = %d, want 404", path, w.Code)
		}
	}
}

func TestZPagesForPeople(t *testing.T) {
	h := Handler(testOptions())
	expect(t, ask(h, "GET", "/flagz"), 200,
		"kube-proxy flagz\nThis page is for people: its format may change.\n\nconfig=/etc/proxy.yaml\nv=2\n")
	expect(t, ask(h, "GET", "/statusz"), 200,
		"kube-proxy statusz\nThis page is for people: its format may change.\n\n"+
			"Started: 2026-03-01T12:00:00Z\nUp: 1 hr 30 min 05 sec\nGo version: "+runtime.Version()+"\nBinary version: v1.2.3\n"+
			"Emulation version: 1.37\nPaths: /configz /debug /flagz /healthz /metrics /proxyMode\n")
}

func TestZPagesForMachines(t *testing.T) {
	h := Handler(testOptions())
	flags := map[string]any{
		"kind": "Flagz", "apiVersion": "config.k8s.io/v1beta1", "metadata": map[string]any{"name": "kube-proxy"},
		"flags": map[string]any{"v": "2", "config": "/etc/proxy.yaml"},
	}
	status := map[string]any{
		"kind": "Statusz", "apiVersion": "config.k8s.io/v1beta1", "metadata": map[string]any{"name": "kube-proxy"},
		"startTime": "2026-03-01T12:00:00Z", "uptimeSeconds": 5405.0, "goVersion": runtime.Version(), "binaryVersion": "v1.2.3",
		"emulationVersion": "1.37",
		"paths":            []any{"/configz", "/debug", "/flagz", "/healthz", "/metrics", "/proxyMode"},
	}
	for path, want := range map[string]map[string]any{"/flagz": flags, "/statusz": status} {
		for mediaType, decode := range map[string]func([]byte, any) error{
			"application/json": json.Unmarshal,
			"application/yaml": func(b []byte, v any) error { return yaml.Unmarshal(b, v) },
		} {
			kind := fmt.Sprint(want["kind"])
			form := mediaType + ";g=config.k8s.io;v=v1beta1;as=" + kind
			w := ask(h, "GET", path, "Accept", form)
			var got map[string]any
			if err := decode(w.Body.Bytes(), &got); err != nil {
				t.Fatalf("%s as %s: %v in %s", path, mediaType, err, w.Body)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s as %s (-want +got):\n%s", path, mediaType, diff)
			}
			if got := w.Header().Get("Content-Type"); got != form || w.Header().Get("Warning") != "" {
				t.Errorf("%s: Content-Type %q, Warning %q, want %q and none", path, got, w.Header().Get("Warning"), form)
			}

			old := ask(h, "GET", path, "Accept", strings.Replace(form, "v1beta1", "v1alpha1", 1))
			if !strings.Contains(old.Body.String(), "config.k8s.io/v1alpha1") ||
				old.Header().Get("Warning") != `299 - "`+kind+` v1alpha1 is deprecated, ask for v1beta1"` {
				t.Errorf("%s v1alpha1: Warning %q, body %s", path, old.Header().Get("Warning"), old.Body)
			}
		}
	}
	w := ask(h, "GET", "/flagz", "Accept", "application/json")
	expect(t, w, 406, "this page comes as text/plain, or as application/json or application/yaml "+
		"with the parameters g=config.k8s.io;v=v1beta1;as=Flagz\n")
}

func TestNegotiate(t *testing.T) {
	const params = ";g=config.k8s.io;v=v1beta1;as=Flagz"
	var (
		text = &zForm{mediaType: "text/plain"}
		js   = &zForm{mediaType: "application/json", version: "v1beta1"}
		yml  = &zForm{mediaType: "application/yaml", version: "v1beta1"}
	)
	for accept, want := range map[string]*zForm{
		"":                                    text,
		"  ":                                  text,
		"*/*":                                 text,
		"text/*":                              text,
		"text/html,*/*;q=0.8":                 text,
		"TEXT/PLAIN":                          text,
		"application/json" + params:           js,
		"application/*" + params:              js,
		"*/*" + params:                        js,
		"application/yaml" + params:           yml,
		"application/json" + params + ", */*": js,
		"application/json" + params + ";q=0.2, text/plain;q=0.3":                    text,
		"text/plain;q=0, application/yaml" + params:                                 yml,
		"application/json" + params + ";q=0.5,application/yaml" + params + ";q=0.9": yml,
		"nonsense/,application/yaml" + params:                                       yml,
		"application/json" + params + ";q=high":                                     nil,
		"application/json":                                                          nil,
		"image/png":                                                                 nil,
		"application/cbor" + params:                                                 nil,
		"application/json;g=config.k8s.io;v=v1;as=Flagz":                            nil,
		"application/json;g=config.k8s.io;v=v1beta1;as=Statusz":                     nil,
		"application/json;g=apps;v=v1beta1;as=Flagz":                                nil,
		"text/plain;g=config.k8s.io;v=v1beta1;as=Flagz":                             nil,
		"text/plain;q=0":                                                            nil,
	} {
		form, ok := negotiate([]string{accept}, "Flagz")
		var got *zForm
		if ok {
			got = &form
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(zForm{})); diff != "" {
			t.Errorf("Accept %q (-want +got):\n%s", accept, diff)
		}
	}
}
