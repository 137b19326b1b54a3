package preflight

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var sample = &Report{Asked: "auto", Mode: "nftables", Level: Warning, Kernel: "6.12.0", Now: []Present{{Mode: "iptables", By: "kube-proxy", Variant: "nft", Families: []string{"IPv4"}}},
	Findings: []Finding{{OK, Choice, ModeChosen, "auto chooses mode nftables", ""}, {Warning, Network, Calico, "Felix uses\niptables", "set nftablesMode <Auto>"}}}

func TestWriteText(t *testing.T) {
	var b strings.Builder
	if err := sample.Write(&b); err != nil {
		t.Fatal(err)
	}
	const want = `choice
  ok       auto chooses mode nftables
network
  warning  Felix uses iptables; remedy: set nftablesMode <Auto>
mode nftables: 1 warning
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestSummary(t *testing.T) {
	finding := func(l Level) Finding { return Finding{Level: l} }
	for want, r := range map[string]Report{
		"mode nftables: ok":                   {Mode: "nftables", Findings: []Finding{finding(OK)}},
		"mode ipvs: 2 warnings":               {Mode: "ipvs", Level: Warning, Findings: []Finding{finding(Warning), finding(OK), finding(Warning)}},
		"mode iptables: 1 blocked, 1 warning": {Mode: "iptables", Level: Blocked, Findings: []Finding{finding(Warning), finding(Blocked)}},
		"mode auto: 3 blocked":                {Asked: "auto", Level: Blocked, Findings: []Finding{finding(Blocked), finding(Blocked), finding(Blocked)}},
	} {
		if got := r.Summary(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// The JSON is what the documentation says.
func TestWriteJSON(t *testing.T) {
	var b strings.Builder
	if err := sample.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(b.String()), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"asked": "auto", "mode": "nftables", "level": "warning", "kernel": "6.12.0",
		"now": []any{map[string]any{"mode": "iptables", "by": "kube-proxy", "variant": "nft", "families": []any{"IPv4"}}},
		"findings": []any{
			map[string]any{"level": "ok", "topic": "choice", "id": "mode-chosen", "message": "auto chooses mode nftables"},
			map[string]any{"level": "warning", "topic": "network", "id": "cni-calico", "message": "Felix uses\niptables", "remedy": "set nftablesMode <Auto>"},
		}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Every ID is in the table of the documentation, and no other.
func TestDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/preflight.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "## What it looks at")
	table, _, _ = strings.Cut(table, "## JSON")
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)`").FindAllStringSubmatch(table, -1) {
		documented[m[1]] = true
	}
	parsed, err := parser.ParseFile(token.NewFileSet(), "finding.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	ast.Inspect(parsed, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok {
			if typ, ok := v.Type.(*ast.Ident); ok && typ.Name == "ID" {
				id, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, id)
			}
		}
		return true
	})
	if len(ids) < 20 {
		t.Fatalf("%d IDs in finding.go", len(ids))
	}
	for _, id := range ids {
		if !documented[id] {
			t.Errorf("%s is not in docs/preflight.md", id)
		}
		delete(documented, id)
	}
	for id := range documented {
		t.Errorf("%s is in docs/preflight.md, but nothing is found under this name", id)
	}
	if slices.Sort(ids); len(slices.Compact(ids)) != len(ids) {
		t.Error("an ID is there twice")
	}
}
