package compare

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"turnout/e2e/cluster/compare/beside"
)

// sameRules compares which chains, sets and maps a packet can meet on the two nodes: base chains, and what they lead to. Where somebody
// only knows later that something is superfluous, he gets the time. What others may leave behind is theirs.
func (p *pair) sameRules(t *testing.T, mayStay ...string) {
	t.Helper()
	clean, diff := inUse(t, p.upstream), "nothing was compared"
	for end := time.Now().Add(patience); diff != "" && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		after := slices.DeleteFunc(inUse(t, p.turnout), func(name string) bool {
			fields := strings.Fields(name)
			return !slices.Contains(clean, name) && slices.Contains(mayStay, fields[len(fields)-1])
		})
		diff = cmp.Diff(clean, after)
	}
	if diff != "" {
		t.Errorf("chains, sets and maps that packets meet (-clean +after):\n%s", diff)
	}
	if len(clean) < 10 {
		t.Errorf("packets meet only %d chains, sets and maps in the clean lab", len(clean))
	}
}

// object is one with a name in a node's packet filter, as nft shows it.
type object struct {
	Family, Table, Name, Chain string
	Hook                       string
	Expr, Elem                 any
}

func (o object) in(kind, name string) string {
	return kind + " " + o.Family + " " + o.Table + " " + name
}

// inUse lists the chains, sets and maps of a node's packet filter that packets can meet.
func inUse(t *testing.T, s *beside.Side) []string {
	t.Helper()
	var listing struct{ Nftables []map[string]json.RawMessage }
	if err := json.Unmarshal([]byte(output(t, s, "nft", "-j", "list", "ruleset")), &listing); err != nil {
		t.Fatalf("what nft lists on the node of %s: %v", s.Name, err)
	}
	leadsTo := map[string][]string{}
	var todo []string
	for _, entry := range listing.Nftables {
		for kind, raw := range entry {
			var o object
			if !slices.Contains([]string{"chain", "rule", "set", "map"}, kind) {
				continue
			}
			if err := json.Unmarshal(raw, &o); err != nil {
				t.Fatalf("%s: %v", raw, err)
			}
			switch kind {
			case "chain":
				if o.Hook != "" {
					todo = append(todo, o.in("chain", o.Name))
				}
			case "rule":
				from := o.in("chain", o.Chain)
				leadsTo[from] = append(leadsTo[from], references(o, o.Expr)...)
			default:
				from := o.in("set", o.Name)
				leadsTo[from] = append(leadsTo[from], references(o, o.Elem)...)
			}
		}
	}
	met := map[string]bool{}
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		if !met[name] {
			met[name] = true
			todo = append(todo, leadsTo[name]...)
		}
	}
	out := make([]string, 0, len(met))
	for name := range met {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// references are the chains, sets and maps that a part of a rule, or of elements, refers to.
func references(o object, part any) (out []string) {
	switch part := part.(type) {
	case []any:
		for _, inner := range part {
			out = append(out, references(o, inner)...)
		}
	case map[string]any:
		for key, inner := range part {
			if verdict, ok := inner.(map[string]any); ok && (key == "jump" || key == "goto") {
				if target, ok := verdict["target"].(string); ok {
					out = append(out, o.in("chain", target))
				}
			}
			out = append(out, references(o, inner)...)
		}
	case string:
		if name, ok := strings.CutPrefix(part, "@"); ok {
			out = append(out, o.in("set", name))
		}
	}
	return out
}

// output runs a program on the node.
func output(t *testing.T, s *beside.Side, program string, args ...string) string {
	t.Helper()
	var text, errors bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &text, &errors
	err := s.Node().Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatalf("%s %v on the node of %s: %v\n%s", program, args, s.Name, err, &errors)
	}
	return text.String()
}
