package compare

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"turnout/e2e/cluster/compare/beside"
)

// series are the samples of a metrics page: what kind of metric each is, and with which labels it is there.
type series map[string]string

func readSeries(t *testing.T, s *beside.Side) series {
	t.Helper()
	types, labels := map[string]string{}, map[string]map[string]bool{}
	for line := range strings.Lines(get(t, s, metricsServer+"/metrics").Body) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 4 && fields[1] == "TYPE":
			types[fields[2]] = fields[3]
			labels[fields[2]] = map[string]bool{}
		case !strings.HasPrefix(line, "#") && len(fields) > 1:
			name, list, _ := strings.Cut(strings.TrimSpace(line[:strings.LastIndex(line, " ")]), "{")
			for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
				if base := strings.TrimSuffix(name, suffix); types[base] != "" && name == base+suffix {
					labels[base][labelNames(list)] = true
				}
			}
		}
	}
	out := series{}
	for name, typ := range types {
		var sets []string
		for set := range labels[name] {
			sets = append(sets, set)
		}
		slices.Sort(sets)
		out[name] = typ + " {" + strings.Join(sets, "} {") + "}"
	}
	return out
}

// labelNames returns "family,table" of `family="IPv4",table="nat"}`; families, tables and the like, of which there are few, with values.
func labelNames(list string) string {
	var out []string
	for part := range strings.SplitSeq(strings.TrimSuffix(list, "}"), ",") {
		name, value, ok := strings.Cut(part, "=")
		if !ok || name == "le" {
			continue
		}
		if name == "ip_family" || name == "traffic_policy" || name == "table" {
			name += "=" + strings.Trim(value, `"`)
		}
		out = append(out, name)
	}
	return strings.Join(out, ",")
}

// TestMetricsOfModes compares the metrics in the modes other than nftables, whose metrics TestServers compares.
func TestMetricsOfModes(t *testing.T) {
	for _, mode := range usableModes(t) {
		name := string(mode.mode())
		if name == "nftables" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			newPair(t, mode).metrics(t)
		})
	}
}

// metrics compares which metrics there are, of what type and with which labels, after some use.
func (p *pair) metrics(t *testing.T) {
	p.useEverything(t)
	// A proxy counts after the kernel follows.
	differ := []string{"nothing"}
	for end := time.Now().Add(patience); len(differ) > 0 && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		differ = p.metricsDiffer(t)
	}
	for _, text := range differ {
		t.Error(text)
	}
}

func (p *pair) metricsDiffer(t *testing.T) (out []string) {
	upstream, turnout := readSeries(t, p.upstream), readSeries(t, p.turnout)
	report := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	compared := 0
	for _, name := range slices.Sorted(maps.Keys(upstream)) {
		got, there := turnout[name]
		switch reason := reasonOf(missing, name); {
		case !there && reason == "":
			report("no metric %s %s", name, upstream[name])
		case there && reason != "":
			report("metric %s is there, but is said not to be: %s", name, reason)
		case there && strings.HasPrefix(name, "kubeproxy_"):
			compared++
			if got != upstream[name] {
				report("metric %s: kube-proxy %s, turnout %s", name, upstream[name], got)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(turnout)) {
		_, there := upstream[name]
		if further := strings.HasPrefix(name, "turnout_") || reasonOf(further, name) != ""; !there && !further {
			report("kube-proxy has no metric %s %s", name, turnout[name])
		}
	}
	if compared < 15 {
		report("only %d metrics of kube-proxy were compared", compared)
	}
	return out
}

// useEverything has metrics appear that kube-proxy shows only once they counted something.
func (p *pair) useEverything(t *testing.T) {
	c := p.turnout.Lab.Cluster
	changed := time.Now().UTC().Format(time.RFC3339Nano) // changes from before a proxy was started do not count
	list := with(c, service(1, "measured", externalLocal, internalLocal), on("pod-5"))
	for _, o := range list {
		if e, ok := o.(*discovery.EndpointSlice); ok {
			e.Annotations = map[string]string{v1.EndpointsLastChangeTriggerTime: changed}
		}
	}
	p.set(list...)
	for _, s := range p.sides() {
		get(t, s, healthServer+"/healthz")
		get(t, s, healthServer+"/livez")
	}
}
