package healthcheck

import (
	"encoding/json"
	"net/http"
	"time"

	"turnout/proxy"
)

// proxyHealth is the body of /healthz and /livez. Names and order are kube-proxy's.
type proxyHealth struct {
	LastUpdated  time.Time               `json:"lastUpdated"`
	CurrentTime  time.Time               `json:"currentTime"`
	NodeEligible *bool                   `json:"nodeEligible,omitempty"`
	Healthy      bool                    `json:"healthy"`
	Status       map[string]familyStatus `json:"status,omitempty"`
}

type familyStatus struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

// proxyReadiness is the body of /readyz.
type proxyReadiness struct {
	Ready         bool                       `json:"ready"`
	SourcesSynced bool                       `json:"sourcesSynced"`
	Status        map[string]familyReadiness `json:"status,omitempty"`
}

type familyReadiness struct {
	Programmed bool   `json:"programmed"`
	Reason     string `json:"reason,omitempty"`
}

// ServeHTTP answers three paths, for any method.
//   - /livez: 200 if healthy; for liveness probes.
//   - /healthz: 200 if healthy and the node may get new connections; for load balancers (KEP-3836). As a liveness probe it
//     would restart the proxy of every node that the autoscaler is about to remove.
//   - /readyz: 200 if the rules of every family in use were programmed since the start.
//
// The answer is 503 otherwise.
func (h *ProxyHealth) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/healthz":
		h.serveHealthz(w)
	case "/livez":
		h.serveLivez(w)
	case "/readyz":
		body := h.readiness()
		answer(w, body.Ready, body)
	default:
		http.NotFound(w, r)
	}
}

func (h *ProxyHealth) serveHealthz(w http.ResponseWriter) {
	body := h.health()
	ok := body.Healthy && *body.NodeEligible
	code := answer(w, ok, body.dated(ok))
	if h.opts.Answers != nil {
		h.opts.Answers.HealthzAnswered(code)
	}
}

func (h *ProxyHealth) serveLivez(w http.ResponseWriter) {
	body := h.health()
	body.NodeEligible = nil
	code := answer(w, body.Healthy, body.dated(body.Healthy))
	if h.opts.Answers != nil {
		h.opts.Answers.LivezAnswered(code)
	}
}

// dated returns what to send: with status 200, lastUpdated has always been "recently", even if there was nothing to update,
// and monitoring relies on that.
func (p proxyHealth) dated(ok bool) proxyHealth {
	if ok {
		p.LastUpdated = p.CurrentTime
	}
	return p
}

func (h *ProxyHealth) health() proxyHealth {
	h.mu.Lock()
	defer h.mu.Unlock()
	eligible := h.node.eligible()
	p := proxyHealth{CurrentTime: h.opts.Now(), NodeEligible: &eligible, Healthy: true, Status: map[string]familyStatus{}}
	for family, f := range h.families {
		s := familyStatus{LastUpdated: f.updated, Healthy: f.pending.IsZero() || p.CurrentTime.Sub(f.pending) < h.opts.Timeout}
		p.Status[family.String()] = s
		p.Healthy = p.Healthy && s.Healthy
		if f.updated.After(p.LastUpdated) {
			p.LastUpdated = f.updated
		}
	}
	return p
}

func (h *ProxyHealth) readiness() proxyReadiness {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := proxyReadiness{Ready: h.synced, SourcesSynced: h.synced, Status: map[string]familyReadiness{}}
	for family, f := range h.families {
		r.Status[family.String()] = h.lockedReadiness(family, f)
		r.Ready = r.Ready && f.programmed
	}
	return r
}

func (h *ProxyHealth) lockedReadiness(family proxy.Family, f *familyHealth) familyReadiness {
	switch {
	case f.programmed:
		return familyReadiness{Programmed: true}
	case f.err != nil:
		return familyReadiness{Reason: "the first sync of " + family.String() + " fails: " + f.err.Error()}
	case !h.synced:
		return familyReadiness{Reason: "the lists of Services and EndpointSlices have not arrived yet"}
	}
	return familyReadiness{Reason: "the first sync of " + family.String() + " is under way"}
}

// answer sends a JSON body with status 200 or 503, and returns the status.
func answer(w http.ResponseWriter, ok bool, body any) int {
	code := http.StatusServiceUnavailable
	if ok {
		code = http.StatusOK
	}
	b, err := json.Marshal(body)
	if err != nil {
		panic(err) // the bodies are plain structs
	}
	jsonHeader(w)
	w.WriteHeader(code)
	_, _ = w.Write(b) // a client that went away needs no answer
	return code
}

func jsonHeader(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
}
