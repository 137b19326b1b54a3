package debug

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"k8s.io/component-base/metrics/prometheus/slis"
)

// healthz tells only that this server answers; the health of the proxy is at its health server. With ?verbose it names its
// one check, "ping", which ?exclude=ping skips: that is how all Kubernetes components answer.
func healthz(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	excluded := query["exclude"]
	var lines strings.Builder
	if slices.Contains(excluded, "ping") {
		lines.WriteString("[+]ping excluded: ok\n")
	} else {
		lines.WriteString("[+]ping ok\n")
		_ = slis.ObserveHealthcheck(r.Context(), "ping", "healthz", slis.Success) // never returns an error
	}
	unknown := slices.DeleteFunc(slices.Clone(excluded), func(name string) bool { return name == "ping" })
	if len(unknown) > 0 {
		slices.Sort(unknown)
		fmt.Fprintf(&lines, "warn: some health checks cannot be excluded: no matches for %q\n", slices.Compact(unknown))
	}
	lines.WriteString("healthz check passed\n")
	if query.Has("verbose") {
		text(w, http.StatusOK, lines.String())
		return
	}
	text(w, http.StatusOK, "ok")
}

func ping(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok") }
