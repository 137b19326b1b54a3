package healthcheck

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
)

// fakeClock stands still until it is moved.
type fakeClock struct{ now time.Time }

func (c *fakeClock) after(d time.Duration) { c.now = c.now.Add(d) }

type countedAnswers struct{ healthz, livez []int }

func (a *countedAnswers) HealthzAnswered(code int) { a.healthz = append(a.healthz, code) }
func (a *countedAnswers) LivezAnswered(code int)   { a.livez = append(a.livez, code) }

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newTestHealth(families ...proxy.Family) (*ProxyHealth, *fakeClock, *countedAnswers) {
	c, a := &fakeClock{now: noon}, &countedAnswers{}
	h := NewProxyHealth(ProxyHealthOptions{
		Timeout: time.Minute, Families: families, Answers: a, Now: func() time.Time { return c.now },
	})
	h.SetNode(NodeFacts{Known: true})
	return h, c, a
}

type answered struct {
	Code int
	Body string
}

func ask(t *testing.T, h http.Handler, path string) answered {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	want := http.Header{"Content-Type": {"application/json"}, "X-Content-Type-Options": {"nosniff"}}
	if diff := cmp.Diff(want, w.Header()); diff != "" {
		t.Errorf("%s: headers (-want +got):\n%s", path, diff)
	}
	return answered{w.Code, w.Body.String()}
}

func expect(t *testing.T, h http.Handler, path string, code int, body string) {
	t.Helper()
	if diff := cmp.Diff(answered{code, body}, ask(t, h, path)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func TestBodies(t *testing.T) {
	h, clock, _ := newTestHealth(proxy.IPv4, proxy.IPv6)
	clock.after(time.Second)
	h.Updated(proxy.IPv4)
	clock.after(time.Second)
	h.QueuedUpdate(proxy.IPv6)
	clock.after(59*time.Second + 999*time.Millisecond)
	status := `"status":{"IPv4":{"lastUpdated":"2026-03-01T12:00:01Z","healthy":true},` +
		`"IPv6":{"lastUpdated":"2026-03-01T12:00:00Z","healthy":`

	// With 200 the time of the last update is that of the answer.
	now := `"lastUpdated":"2026-03-01T12:01:01.999Z","currentTime":"2026-03-01T12:01:01.999Z",`
	expect(t, h, "/healthz", 200, `{`+now+`"nodeEligible":true,"healthy":true,`+status+`true}}}`)
	expect(t, h, "/livez", 200, `{`+now+`"healthy":true,`+status+`true}}}`)

	// With 503 it is the real one.
	clock.after(time.Millisecond)
	now = `"lastUpdated":"2026-03-01T12:00:01Z","currentTime":"2026-03-01T12:01:02Z",`
	expect(t, h, "/healthz", 503, `{`+now+`"nodeEligible":true,"healthy":false,`+status+`false}}}`)
	expect(t, h, "/livez", 503, `{`+now+`"healthy":false,`+status+`false}}}`)
}

// A new timeout holds for what waits already.
func TestTimeoutChanges(t *testing.T) {
	h, clock, _ := newTestHealth(proxy.IPv4)
	h.QueuedUpdate(proxy.IPv4)
	clock.after(30 * time.Second)
	for _, row := range []struct {
		timeout time.Duration
		healthy bool
	}{{31 * time.Second, true}, {30 * time.Second, false}, {time.Hour, true}} {
		h.SetTimeout(row.timeout)
		if got := h.Healthy(); got != row.healthy {
			t.Errorf("with a timeout of %v: healthy %t after 30s", row.timeout, got)
		}
	}
}

func TestNoFamilyHasNoStatus(t *testing.T) {
	h, _, _ := newTestHealth()
	expect(t, h, "/livez", 200,
		`{"lastUpdated":"2026-03-01T12:00:00Z","currentTime":"2026-03-01T12:00:00Z","healthy":true}`)
}

func TestNodeEligibility(t *testing.T) {
	for name, c := range map[string]struct {
		node NodeFacts
		want int
	}{
		"in service":           {NodeFacts{Known: true}, 200},
		"unknown":              {NodeFacts{}, 503},
		"being deleted":        {NodeFacts{Known: true, Deleting: true}, 503},
		"autoscaler's victim":  {NodeFacts{Known: true, Tainted: true}, 503},
		"both":                 {NodeFacts{Known: true, Deleting: true, Tainted: true}, 503},
		"unknown with a taint": {NodeFacts{Tainted: true}, 503},
	} {
		t.Run(name, func(t *testing.T) {
			h, _, answers := newTestHealth(proxy.IPv4)
			h.SetNode(c.node)
			if got := ask(t, h, "/healthz").Code; got != c.want {
				t.Errorf("/healthz = %d, want %d", got, c.want)
			}
			if got := ask(t, h, "/livez").Code; got != 200 {
				t.Errorf("/livez = %d, want 200 whatever the node", got)
			}
			if !h.Healthy() {
				t.Error("Healthy() = false, want true whatever the node")
			}
			if diff := cmp.Diff(&countedAnswers{[]int{c.want}, []int{200}}, answers, cmp.AllowUnexported(countedAnswers{})); diff != "" {
				t.Errorf("counted (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHealthOverTime(t *testing.T) {
	failure := errors.New("no such table")
	for name, c := range map[string]struct {
		do   func(*ProxyHealth, *fakeClock)
		want bool
	}{
		"nothing queued, hours pass": {func(_ *ProxyHealth, c *fakeClock) { c.after(5 * time.Hour) }, true},
		"API server never answers": {func(h *ProxyHealth, c *fakeClock) {
			c.after(5 * time.Hour) // and SourcesSynced is not called
		}, true},
		"queued, not late": {func(h *ProxyHealth, c *fakeClock) { h.QueuedUpdate(proxy.IPv4); c.after(59 * time.Second) }, true},
		"queued, late":     {func(h *ProxyHealth, c *fakeClock) { h.QueuedUpdate(proxy.IPv4); c.after(60 * time.Second) }, false},
		"the oldest change counts": {func(h *ProxyHealth, c *fakeClock) {
			h.QueuedUpdate(proxy.IPv4)
			c.after(40 * time.Second)
			h.QueuedUpdate(proxy.IPv4)
			c.after(20 * time.Second)
		}, false},
		"queued, updated": {func(h *ProxyHealth, c *fakeClock) {
			h.QueuedUpdate(proxy.IPv4)
			h.Updated(proxy.IPv4)
			c.after(time.Hour)
		}, true},
		"late, then updated": {func(h *ProxyHealth, c *fakeClock) {
			h.QueuedUpdate(proxy.IPv4)
			c.after(time.Hour)
			h.Updated(proxy.IPv4)
		}, true},
		"the other family updated": {func(h *ProxyHealth, c *fakeClock) {
			h.QueuedUpdate(proxy.IPv4)
			h.Updated(proxy.IPv6)
			c.after(time.Hour)
		}, false},
		"first sync does not come": {func(h *ProxyHealth, c *fakeClock) {
			h.Updated(proxy.IPv6)
			h.SourcesSynced()
			c.after(time.Minute)
		}, false},
		"first sync fails, no change queued": {func(h *ProxyHealth, c *fakeClock) {
			h.SourcesSynced()
			h.Updated(proxy.IPv6)
			h.Failed(proxy.IPv4, failure)
			c.after(time.Minute)
		}, false},
		"first sync is late but comes": {func(h *ProxyHealth, c *fakeClock) {
			h.SourcesSynced()
			c.after(time.Hour)
			h.Updated(proxy.IPv4)
			h.Updated(proxy.IPv6)
		}, true},
		"synced again after the first sync": {func(h *ProxyHealth, c *fakeClock) {
			h.SourcesSynced()
			h.Updated(proxy.IPv4)
			h.Updated(proxy.IPv6)
			h.SourcesSynced()
			c.after(time.Hour)
		}, true},
		"periodic sync fails": {func(h *ProxyHealth, c *fakeClock) {
			h.Updated(proxy.IPv4)
			c.after(time.Hour)
			h.Failed(proxy.IPv4, failure)
			c.after(time.Minute)
		}, false},
		"repeated failures do not move the time": {func(h *ProxyHealth, c *fakeClock) {
			for range 60 {
				h.Failed(proxy.IPv4, failure)
				c.after(time.Second)
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			h, clock, _ := newTestHealth(proxy.IPv4, proxy.IPv6)
			c.do(h, clock)
			if got := h.Healthy(); got != c.want {
				t.Errorf("Healthy() = %v, want %v", got, c.want)
			}
		})
	}
}

func TestFamilyNotInUseIsIgnored(t *testing.T) {
	h, clock, _ := newTestHealth(proxy.IPv4)
	h.QueuedUpdate(proxy.IPv6)
	h.Failed(proxy.IPv6, errors.New("no IPv6"))
	h.Updated(proxy.IPv6)
	h.SourcesSynced()
	h.Updated(proxy.IPv4)
	clock.after(time.Hour)
	expect(t, h, "/readyz", 200, `{"ready":true,"sourcesSynced":true,"status":{"IPv4":{"programmed":true}}}`)
	if !h.Healthy() {
		t.Error("Healthy() = false, want true")
	}
}

func TestReadiness(t *testing.T) {
	h, clock, answers := newTestHealth(proxy.IPv4, proxy.IPv6)
	const waiting = `{"programmed":false,"reason":"the lists of Services and EndpointSlices have not arrived yet"}`
	expect(t, h, "/readyz", 503, `{"ready":false,"sourcesSynced":false,"status":{"IPv4":`+waiting+`,"IPv6":`+waiting+`}}`)

	h.SourcesSynced()
	h.Failed(proxy.IPv6, errors.New("apply: operation not permitted"))
	expect(t, h, "/readyz", 503, `{"ready":false,"sourcesSynced":true,"status":{`+
		`"IPv4":{"programmed":false,"reason":"the first sync of IPv4 is under way"},`+
		`"IPv6":{"programmed":false,"reason":"the first sync of IPv6 fails: apply: operation not permitted"}}}`)

	h.Updated(proxy.IPv4)
	if got := ask(t, h, "/readyz").Code; got != 503 {
		t.Errorf("/readyz with one family missing = %d, want 503", got)
	}
	h.Updated(proxy.IPv6)
	ready := `{"ready":true,"sourcesSynced":true,"status":{"IPv4":{"programmed":true},"IPv6":{"programmed":true}}}`
	expect(t, h, "/readyz", 200, ready)

	// A later failure leaves the rules in place: that is a matter of /livez.
	h.Failed(proxy.IPv4, errors.New("no buffer space"))
	clock.after(time.Hour)
	expect(t, h, "/readyz", 200, ready)
	if got := ask(t, h, "/livez").Code; got != 503 {
		t.Errorf("/livez = %d, want 503", got)
	}
	if len(answers.healthz) != 0 || len(answers.livez) != 1 {
		t.Errorf("counted %+v, want one answer of /livez only", *answers)
	}
}

func TestOtherPathsAndMethods(t *testing.T) {
	h, _, _ := newTestHealth(proxy.IPv4)
	for _, path := range []string{"/", "/healthz/", "/metrics"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != 404 {
			t.Errorf("GET %s = %d, want 404", path, w.Code)
		}
	}
	for _, method := range []string{http.MethodHead, http.MethodPost, http.MethodOptions} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, "/healthz", nil))
		if w.Code != 200 {
			t.Errorf("%s /healthz = %d, want 200", method, w.Code)
		}
	}
}

func TestNoAnswersCounted(t *testing.T) {
	h := NewProxyHealth(ProxyHealthOptions{Timeout: time.Minute, Families: []proxy.Family{proxy.IPv4}})
	if got := ask(t, h, "/livez").Code; got != 200 {
		t.Errorf("/livez = %d, want 200", got)
	}
	if got := ask(t, h, "/healthz").Code; got != 503 {
		t.Errorf("/healthz without a Node = %d, want 503", got)
	}
}
