package leftovers

import (
	"fmt"
	"strings"

	"turnout/proxy"
)

// Object is one thing in the kernel that an earlier proxy left.
type Object struct {
	Family proxy.Family
	Kind   string   // "chain", "rule", "virtual server", "interface", "table", "ipset" or "counter"
	Table  string   // of iptables; empty for what is in none
	Legacy bool     // of iptables-legacy, which nftables knows nothing of
	Name   string   // of the chain; for a rule, the chain that it stands in
	Detail string   // of a rule, the chain that it jumps to
	UsedBy []string // other programs' chains that lead to this one
}

// String is one line, such as "rule: ip nat PREROUTING -> KUBE-SERVICES".
func (o Object) String() string {
	family := "ip"
	if o.Family == proxy.IPv6 {
		family = "ip6"
	}
	kind := o.Kind
	if o.Legacy {
		kind = "legacy " + kind
	}
	switch {
	case kind == "table":
		return kind + ": " + family + " " + o.Name
	case o.Table == "":
		return kind + ": " + o.Name
	}
	s := fmt.Sprintf("%s: %s %s %s", kind, family, o.Table, o.Name)
	if o.Detail != "" {
		s += " -> " + o.Detail
	}
	if len(o.UsedBy) > 0 {
		s += ", used by chain " + strings.Join(o.UsedBy, ", ")
	}
	return s
}
