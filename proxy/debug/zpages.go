package debug

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// component is how the proxy calls itself on the z-pages (KEP-4827, KEP-4828): clients know this name.
const component = "kube-proxy"

const zGroup = "config.k8s.io"

type typeMeta struct {
	Kind       string `json:"kind"`
	APIVersion string `json:"apiVersion"`
	Metadata   struct {
		Name string `json:"name"`
	} `json:"metadata"`
}

type flagzPage struct {
	typeMeta
	Flags map[string]string `json:"flags,omitempty"`
}

type statuszPage struct {
	typeMeta
	StartTime        string   `json:"startTime"` // RFC 3339, UTC, whole seconds
	UptimeSeconds    int64    `json:"uptimeSeconds"`
	GoVersion        string   `json:"goVersion"`
	BinaryVersion    string   `json:"binaryVersion"`
	EmulationVersion string   `json:"emulationVersion,omitempty"`
	Paths            []string `json:"paths"`
}

func flagz(flags func() map[string]string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		page := flagzPage{Flags: flags()}
		serveZPage(w, r, "Flagz", page.text(), func(t typeMeta) any { page.typeMeta = t; return page })
	}
}

func statusz(o *Options, paths []string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		page := statuszPage{
			StartTime:     o.Started.UTC().Format(time.RFC3339),
			UptimeSeconds: max(0, int64(o.Now().Sub(o.Started)/time.Second)),
			GoVersion:     runtime.Version(),
			BinaryVersion: o.BinaryVersion, EmulationVersion: o.EmulationVersion,
			Paths: paths,
		}
		serveZPage(w, r, "Statusz", page.text(), func(t typeMeta) any { page.typeMeta = t; return page })
	}
}

func (p *flagzPage) text() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(p.Flags)) {
		fmt.Fprintf(&b, "%s=%s\n", name, p.Flags[name])
	}
	return b.String()
}

func (p *statuszPage) text() string {
	up := p.UptimeSeconds
	s := fmt.Sprintf("Started: %s\nUp: %d hr %02d min %02d sec\nGo version: %s\nBinary version: %s\n",
		p.StartTime, up/3600, up/60%60, up%60, p.GoVersion, p.BinaryVersion)
	if p.EmulationVersion != "" {
		s += "Emulation version: " + p.EmulationVersion + "\n"
	}
	return s + "Paths: " + strings.Join(p.Paths, " ") + "\n"
}

// serveZPage answers in the form that the client accepts: plain text for people, or JSON or YAML for those that name the kind
// and its version.
func serveZPage(w http.ResponseWriter, r *http.Request, kind, plain string, object func(typeMeta) any) {
	form, ok := negotiate(r.Header.Values("Accept"), kind)
	if !ok {
		text(w, http.StatusNotAcceptable, fmt.Sprintf("this page comes as text/plain, or as application/json or application/yaml "+
			"with the parameters g=%s;v=v1beta1;as=%s\n", zGroup, kind))
		return
	}
	if form.mediaType == "text/plain" {
		text(w, http.StatusOK, fmt.Sprintf("%s %s\nThis page is for people: its format may change.\n\n%s",
			component, strings.ToLower(kind), plain))
		return
	}
	t := typeMeta{Kind: kind, APIVersion: zGroup + "/" + form.version}
	t.Metadata.Name = component
	b, err := form.marshal(object(t))
	if err != nil {
		text(w, http.StatusInternalServerError, err.Error()+"\n")
		return
	}
	if form.version != zCurrent {
		w.Header().Set("Warning", fmt.Sprintf(`299 - "%s %s is deprecated, ask for %s"`, kind, form.version, zCurrent))
	}
	w.Header().Set("Content-Type", fmt.Sprintf("%s;g=%s;v=%s;as=%s", form.mediaType, zGroup, form.version, kind))
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(b) // a client that went away needs no answer
}

func (f *zForm) marshal(v any) ([]byte, error) {
	if f.mediaType == "application/yaml" {
		return yaml.Marshal(v)
	}
	b, err := json.Marshal(v)
	return append(b, '\n'), err
}
