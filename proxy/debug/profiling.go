package debug

import (
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/pprof"

	"k8s.io/component-base/logs"
)

// installProfiling adds what costs time or changes the process.
func installProfiling(m *mux) {
	m.Handle("/debug/pprof", http.RedirectHandler("/debug/pprof/", http.StatusFound))
	m.Handle("/debug/pprof/", http.HandlerFunc(pprof.Index))
	m.Handle("/debug/pprof/profile", http.HandlerFunc(pprof.Profile))
	m.Handle("/debug/pprof/symbol", http.HandlerFunc(pprof.Symbol))
	m.Handle("/debug/pprof/trace", http.HandlerFunc(pprof.Trace))
	m.Handle("/debug/flags", http.HandlerFunc(flagsIndex))
	m.Handle("/debug/flags/", http.HandlerFunc(flagsIndex))
	m.Handle("/debug/flags/v", http.HandlerFunc(setVerbosity))
}

// maxVerbosity is more bytes than any number of a log level has.
const maxVerbosity = 64

// setVerbosity sets the log level to the number in the body of a PUT.
func setVerbosity(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPut {
		w.Header().Set("Allow", "PUT")
		text(w, http.StatusMethodNotAllowed, "set the log level with PUT, and the number as the body\n")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxVerbosity))
	if err != nil {
		text(w, http.StatusBadRequest, fmt.Sprintf("read the log level: %v\n", err))
		return
	}
	said, err := logs.GlogSetter(string(body))
	if err != nil {
		text(w, http.StatusBadRequest, fmt.Sprintf("set the log level to %q: %v: send a whole number from 0 on\n", body, err))
		return
	}
	text(w, http.StatusOK, said+"\n")
}

func flagsIndex(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = fmt.Fprintf(w, "<html><head><title>%[1]s</title></head><body>%[1]s: PUT a number to <a href=\"/debug/flags/v\">v</a>"+
		" to set the log level</body></html>\n", html.EscapeString(r.URL.Path))
}
