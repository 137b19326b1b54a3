package manifests

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/component-base/metrics/legacyregistry"
	"sigs.k8s.io/yaml"

	"turnout/proxy"
	"turnout/proxy/metrics"
)

// expressions are all PromQL expressions of the alerts and the dashboard by what they are for.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	var alerts struct {
		Spec struct {
			Groups []struct {
				Rules []struct{ Alert, Expr string }
			}
		}
	}
	if err := yaml.Unmarshal(read(t, "monitoring/alerts.yaml"), &alerts); err != nil {
		t.Fatal(err)
	}
	for _, g := range alerts.Spec.Groups {
		for _, r := range g.Rules {
			all["alert "+r.Alert] = r.Expr
		}
	}
	for _, p := range panels(t) {
		for _, target := range p.Targets {
			all["panel "+p.Title+" "+target.RefID] = target.Expr
		}
	}
	if len(all) < 30 {
		t.Fatalf("only %d expressions found", len(all))
	}
	return all
}

type panel struct {
	ID          int
	Type, Title string
	GridPos     struct{ X, Y, W, H int }
	Targets     []struct{ RefID, Expr string }
	Datasource  struct{ UID string }
	FieldConfig struct{ Defaults struct{ Unit string } }
}

func panels(t *testing.T) []panel {
	t.Helper()
	var dashboard struct{ Panels []panel }
	if err := json.Unmarshal(read(t, "monitoring/dashboard.json"), &dashboard); err != nil {
		t.Fatal(err)
	}
	return dashboard.Panels
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	raw, err := Files.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestMetricsExist checks that alerts and dashboard ask for metrics, and labels of them, that the proxy has.
func TestMetricsExist(t *testing.T) {
	labels := exported(t)
	name := regexp.MustCompile(`\b((?:kubeproxy|turnout|rest_client|process|go)_[a-z0-9_]+)(?:\{([^}]*)\})?`)
	label := regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)`)
	suffix := regexp.MustCompile(`_(bucket|count|sum)$`)
	for what, expr := range expressions(t) {
		for _, m := range name.FindAllStringSubmatch(expr, -1) {
			known, ok := labels[m[1]]
			if !ok {
				known, ok = labels[suffix.ReplaceAllString(m[1], "")]
			}
			if !ok {
				t.Errorf("%s: the proxy has no metric %s", what, m[1])
				continue
			}
			for _, l := range label.FindAllStringSubmatch(m[2], -1) {
				if !slices.Contains(known, l[1]) && !slices.Contains([]string{"job", "node"}, l[1]) {
					t.Errorf("%s: %s has no label %s, only %v", what, m[1], l[1], known)
				}
			}
		}
	}
}

// testTime is any time.
var testTime = time.Unix(1, 0)

// exported returns the names of the metrics that a proxy serves, with their labels.
func exported(t *testing.T) map[string][]string {
	t.Helper()
	m := metrics.New(legacyregistry.MustRegister)
	// Those that report a state appear when the state is known.
	for _, f := range proxy.Families {
		m.Sizes(f, 1, 1, 1)
		m.Applied(f, 1, 1)
		m.NoLocalEndpoints(f, 1, 1)
		m.SyncQueued(f, testTime)
		m.SyncSucceeded(f, testTime)
	}
	m.ConfigFileUsed()
	m.ModeIs("iptables", metrics.ModeByLabel)
	m.TablesRead(proxy.IPv4, map[string][]string{"nat": nil})
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	// That of client-go appears with the first request.
	out := map[string][]string{"rest_client_requests_total": {"code", "host", "method"}}
	for _, f := range families {
		names := map[string]bool{}
		for _, series := range f.GetMetric() {
			for _, l := range series.GetLabel() {
				names[l.GetName()] = true
			}
		}
		out[f.GetName()] = slices.Collect(maps.Keys(names))
	}
	return out
}

// TestDashboardLayout checks what Grafana would not complain about: numbers given twice, and panels that cover each other.
func TestDashboardLayout(t *testing.T) {
	type cell struct{ x, y int }
	taken, ids := map[cell]string{}, map[int]bool{}
	for _, p := range panels(t) {
		if ids[p.ID] {
			t.Errorf("%s: another panel has number %d, too", p.Title, p.ID)
		}
		ids[p.ID] = true
		if p.Type != "row" && (len(p.Targets) == 0 || p.Datasource.UID != "${datasource}" || p.FieldConfig.Defaults.Unit == "") {
			t.Errorf("%s: no query, no unit or another data source", p.Title)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[cell{x, y}]; other != "" || x > 23 {
					t.Errorf("%s covers %s at %d,%d, or is out of sight", p.Title, other, x, y)
				}
				taken[cell{x, y}] = p.Title
			}
		}
	}
}

// TestAlerts runs the unit tests of the alerts, and has every expression of the dashboard parsed.
func TestAlerts(t *testing.T) {
	promtool := os.Getenv("PROMTOOL")
	if promtool == "" {
		path, err := exec.LookPath("promtool")
		if err != nil {
			t.Skip("no promtool: make manifests brings one")
		}
		promtool = path
	}
	dir := t.TempDir()
	write := func(name string, value any) {
		raw, err := yaml.Marshal(value)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), raw, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var alerts struct{ Spec any }
	if err := yaml.Unmarshal(read(t, "monitoring/alerts.yaml"), &alerts); err != nil {
		t.Fatal(err)
	}
	write("rules.yaml", alerts.Spec)
	write("dashboard.yaml", recordings(expressions(t)))
	if err := os.WriteFile(filepath.Join(dir, "alerts_test.yaml"), read(t, "monitoring/alerts_test.yaml"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"check", "rules", "rules.yaml", "dashboard.yaml"}, {"test", "rules", "alerts_test.yaml"}} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// recordings is a file of rules that record each expression, with a value for each of Grafana's variables.
func recordings(expressions map[string]string) any {
	type rule struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	type group struct {
		Name  string `json:"name"`
		Rules []rule `json:"rules"`
	}
	g := group{Name: "dashboard"}
	variables := strings.NewReplacer("$__rate_interval", "5m", "$__range", "1h", "$node", ".*", "$family", ".*")
	for _, what := range slices.Sorted(maps.Keys(expressions)) {
		record := regexp.MustCompile(`[^a-zA-Z0-9]+`).ReplaceAllString(what, "_")
		g.Rules = append(g.Rules, rule{record, variables.Replace(expressions[what])})
	}
	return map[string][]group{"groups": {g}}
}

// TestEveryAlertIsTested checks that each alert is expected to fire by one of the unit tests, and to be silent by another.
func TestEveryAlertIsTested(t *testing.T) {
	var tests struct {
		Tests []struct {
			AlertRuleTest []struct {
				AlertName string           `json:"alertname"`
				Expected  []map[string]any `json:"exp_alerts"`
			} `json:"alert_rule_test"`
		}
	}
	if err := yaml.Unmarshal(read(t, "monitoring/alerts_test.yaml"), &tests); err != nil {
		t.Fatal(err)
	}
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, test := range tests.Tests {
		for _, a := range test.AlertRuleTest {
			if len(a.Expected) > 0 {
				fires["alert "+a.AlertName] = true
			} else {
				silent["alert "+a.AlertName] = true
			}
		}
	}
	want := map[string]bool{}
	for what := range expressions(t) {
		if strings.HasPrefix(what, "alert ") {
			want[what] = true
		}
	}
	if diff := cmp.Diff(want, fires); diff != "" {
		t.Errorf("alerts that a test expects (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(want, silent); diff != "" {
		t.Errorf("alerts that a test expects not to fire (-want +got)\n%s", diff)
	}
}

// TestEveryAlertIsExplained checks that docs/troubleshoot.md has a section of its name for each alert, and none for another.
func TestEveryAlertIsExplained(t *testing.T) {
	page, err := os.ReadFile("../docs/troubleshoot.md")
	if err != nil {
		t.Fatal(err)
	}
	want, got := map[string]bool{}, map[string]bool{}
	for what := range expressions(t) {
		if name, ok := strings.CutPrefix(what, "alert "); ok {
			want[name] = true
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^### (Turnout\w+)$`).FindAllStringSubmatch(string(page), -1) {
		got[m[1]] = true
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sections (-want +got)\n%s", diff)
	}
}
