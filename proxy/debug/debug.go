package debug

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"k8s.io/component-base/configz"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/component-base/metrics/prometheus/slis"
)

// Options say what is shown. Every path is served without authentication, so nothing here may be secret.
type Options struct {
	// Mode returns the proxy mode in use, such as "nftables".
	Mode func() string
	// Flags returns the command line flags by name, without secrets. Without it there is no /flagz.
	Flags func() map[string]string
	// State writes what is programmed, as text. Without it there is no /debug/state.
	State func(io.Writer) error
	// NoStatusz leaves /statusz out (feature gate ComponentStatusz).
	NoStatusz bool
	// BinaryVersion and EmulationVersion are for /statusz: that of the program, and the "major.minor" of the Kubernetes
	// whose behaviour it has.
	BinaryVersion, EmulationVersion string
	// Started is when the process started.
	Started time.Time
	// Profiling adds /debug/pprof and /debug/flags/v (enableProfiling).
	Profiling bool
	// Metrics is the handler of /metrics; that of the legacy registry, where everything of Kubernetes registers, if nil.
	Metrics http.Handler
	// Now is time.Now if nil.
	Now func() time.Time
}

// Handler returns the handler of the whole server.
func Handler(o Options) http.Handler {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Metrics == nil {
		o.Metrics = legacyregistry.Handler()
	}
	m := &mux{ServeMux: http.NewServeMux()}
	m.Handle("/metrics", o.Metrics)
	slis.SLIMetricsWithReset{}.Install(m)
	configz.InstallHandler(m)
	m.Handle("/healthz", http.HandlerFunc(healthz))
	m.Handle("/healthz/ping", http.HandlerFunc(ping))
	m.Handle("/proxyMode", proxyMode(o.Mode))
	if o.Flags != nil {
		m.Handle("/flagz", flagz(o.Flags))
	}
	if o.State != nil {
		m.Handle("/debug/state", getOnly(state(o.State)))
	}
	if o.Profiling {
		installProfiling(m)
	}
	if !o.NoStatusz {
		m.Handle("/statusz", statusz(&o, slices.Clone(m.folders)))
	}
	return m
}

// mux also keeps the first part of each path, for /statusz.
type mux struct {
	*http.ServeMux
	folders []string // sorted, unique
}

// Handle registers a path, or with a slash at the end all paths below it.
func (m *mux) Handle(path string, h http.Handler) {
	m.ServeMux.Handle(path, h)
	first, _, _ := strings.Cut(path[1:], "/")
	if i, found := slices.BinarySearch(m.folders, "/"+first); !found {
		m.folders = slices.Insert(m.folders, i, "/"+first)
	}
}

func proxyMode(mode func() string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		text(w, http.StatusOK, mode())
	}
}

func state(dump func(io.Writer) error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		textHeader(w)
		if err := dump(w); err != nil {
			_, _ = fmt.Fprintf(w, "\nthe rest is missing: %v\n", err)
		}
	}
}

func getOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			text(w, http.StatusMethodNotAllowed, "only GET and HEAD are allowed here\n")
			return
		}
		h.ServeHTTP(w, r)
	})
}

func text(w http.ResponseWriter, code int, s string) {
	textHeader(w)
	w.WriteHeader(code)
	_, _ = io.WriteString(w, s) // a client that went away needs no answer
}

func textHeader(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
}
