package compat

import (
	"fmt"
	"strings"

	lib "github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// Rule is a rule as the kernel has it.
type Rule struct {
	Table, Chain string
	Handle       uint64
	// Jump is the chain that it leads to, "" if none.
	Jump string
	// Comment is what its author wrote beside it with nft, "" if nothing.
	Comment string
	// Strange are the parts that iptables-nft does not know, by the kernel's names: with one of them, and for the whole table, its listing
	// and saving fail, or leave out what is there. Fields of headers that it does not know either, such as ip dscp, are not among them.
	Strange []string
	// Owner is the program that names in the rule point to, "" if none do. It is a guess: the kernel does not keep who wrote a rule.
	Owner string
}

// String returns such as `rule handle 7 of chain INPUT in table filter (with ct; comment "vpn")`.
func (r Rule) String() string {
	text := fmt.Sprintf("rule handle %d of chain %s in table %s", r.Handle, r.Chain, r.Table)
	var parts []string
	if len(r.Strange) > 0 {
		parts = append(parts, "with "+strings.Join(r.Strange, ", "))
	}
	if r.Comment != "" {
		parts = append(parts, fmt.Sprintf("comment %q", r.Comment))
	}
	if r.Owner != "" {
		parts = append(parts, "it looks like one of "+r.Owner)
	}
	if len(parts) > 0 {
		text += " (" + strings.Join(parts, "; ") + ")"
	}
	return text
}

// ruleOf makes a Rule of what the library has read; unknown are the expressions that iptables-nft does not know.
func ruleOf(table, chain string, r *lib.Rule, unknown []string) Rule {
	out := Rule{Table: table, Chain: chain, Handle: r.Handle, Strange: unknown}
	out.Comment, _ = userdata.GetString(r.UserData, userdata.TypeComment)
	for _, e := range r.Exprs {
		if v, ok := e.(*expr.Verdict); ok && (v.Kind == expr.VerdictJump || v.Kind == expr.VerdictGoto) {
			out.Jump = v.Chain
		}
		if name := strange(e); name != "" {
			out.Strange = append(out.Strange, name)
		}
	}
	out.Owner = out.owner(r)
	return out
}
