package iptables

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"turnout/proxy"
	"turnout/proxy/nftables/compat"
)

// Variant is one of the two sets of programs called iptables. They keep their rules in different parts of the kernel, and packets meet both.
type Variant string

// The variants.
const (
	NFT    Variant = "nft"
	Legacy Variant = "legacy"
)

// Choice tells which programs a Backend uses, and why.
type Choice struct {
	Variant          Variant
	Program, Version string
	Reason           string
	// Lacks says which Services are left out, and why.
	Lacks []string
	// Uncounted is why rules do not count the packets that they drop or accept; "" if they do.
	Uncounted string
}

// String returns such as "iptables-nft-restore 1.8.9: kubelet's chain KUBE-IPTABLES-HINT is there".
func (c Choice) String() string {
	text := strings.Join(append([]string{c.Program + " " + c.Version + ": " + c.Reason}, c.Lacks...), "; ")
	if c.Uncounted != "" {
		text += "; packets are not counted: " + c.Uncounted
	}
	return text
}

// hints are chains that kubelet makes in table mangle, in the variant that the node uses (KEP-3178; before 1.24 only the second).
var hints = []string{"KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"}

// choose finds the variant that the node uses: of kubelet's hint, otherwise of the more rules. If only one is installed, that is it.
func choose(ctx context.Context, o *Options) (*programs, string, error) {
	if o.Variant != "" {
		p, err := findPrograms(ctx, o, o.Variant)
		return p, "as configured", err
	}
	nft, nftErr := findPrograms(ctx, o, NFT)
	legacy, legacyErr := findPrograms(ctx, o, Legacy)
	switch {
	case nftErr != nil && legacyErr != nil:
		return nil, "", nftErr
	case legacyErr != nil:
		return nft, "the variant legacy cannot be used", nil
	case nftErr != nil:
		return legacy, fmt.Sprintf("the variant nft cannot be used (%v)", nftErr), nil
	}
	reader := compat.New(o.Family)
	chains, err := reader.Chains(tables[:]...)
	if err != nil { // such as that the kernel has no nftables
		return legacy, fmt.Sprintf("the rules of variant nft cannot be read (%v)", err), nil
	}
	for _, c := range chains {
		if c.Table == mangle && slices.Contains(hints, c.Name) {
			return nft, "kubelet's chain " + c.Name + " is there", nil
		}
	}
	hint, rules, err := legacyUse(ctx, legacy)
	switch {
	case err != nil:
		return nft, fmt.Sprintf("the rules of variant legacy cannot be read (%v)", err), nil
	case hint != "":
		return legacy, "kubelet's chain " + hint + " is there", nil
	}
	if n := nftUse(reader, chains, rules); n < rules {
		return legacy, fmt.Sprintf("%d chains and rules are there, and %d of variant nft", rules, n), nil
	}
	return nft, fmt.Sprintf("no hint of kubelet; %d chains and rules of variant legacy are there, and not fewer of variant nft", rules), nil
}

// nftUse counts the chains and rules of iptables-nft beyond the chains of the kernel itself, until there are enough: to ask for the rules of the chains of thousands of Services
// takes seconds.
func nftUse(reader *compat.Reader, chains []compat.Chain, enough int) (rules int) {
	for _, c := range chains {
		if rules >= enough {
			break
		}
		if !c.Base {
			rules++
		}
		if list, err := reader.Rules(c.Table, c.Name); err == nil { // otherwise it has gone meanwhile
			rules += len(list)
		}
	}
	return rules
}

// legacyUse returns the hint in the tables of iptables-legacy, and how many chains and rules they have beyond the chains of the kernel itself. Tables that do not exist are not asked for: that would make them, and packets would meet them.
func legacyUse(ctx context.Context, p *programs) (hint string, rules int, err error) {
	exist, err := LegacyTables(p.family)
	if err != nil {
		return "", 0, err
	}
	for _, table := range tables {
		if !slices.Contains(exist, table) {
			continue
		}
		text, err := p.save(ctx, table)
		if err != nil {
			return "", 0, err
		}
		for l := range strings.Lines(text) {
			name, isChain := strings.CutPrefix(l, ":")
			name, policy, _ := strings.Cut(name, " ")
			switch {
			case table == mangle && isChain && slices.Contains(hints, name):
				return name, 0, nil
			case isChain && strings.HasPrefix(policy, "-"), strings.HasPrefix(l, "-A"):
				rules++
			}
		}
	}
	return "", rules, nil
}

// LegacyTables lists the tables of iptables-legacy that the namespace has. One that was never used is not there, and asking for it would make
// it, and have packets meet it.
func LegacyTables(f proxy.Family) ([]string, error) {
	file := "/proc/thread-self/net/ip_tables_names"
	if f == proxy.IPv6 {
		file = "/proc/thread-self/net/ip6_tables_names"
	}
	text, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return nil, nil // the kernel has none
	}
	if err != nil {
		return nil, fmt.Errorf("list the tables of iptables-legacy: %w", err)
	}
	return strings.Fields(string(text)), nil
}

// probe asks a program for its version, and refuses one that cannot do what is needed.
func (p *programs) probe(ctx context.Context) error {
	out, err := p.run(ctx, nil, p.command, "--version")
	if err != nil {
		return err
	}
	_, version, _ := strings.Cut(strings.TrimSpace(out), " v")
	version, kind, _ := strings.Cut(version, " ")
	p.version = version
	is := Legacy // which is what there was before 1.8
	if strings.Contains(kind, "nf_tables") {
		is = NFT
	}
	switch {
	case !atLeast(version, 1, 6, 2):
		return &Error{Program: p.command, Version: version, Kind: TooOld, Detail: "it says " + strconv.Quote(strings.TrimSpace(out))}
	case is != p.variant:
		return &Error{Program: p.command, Version: version, Kind: Missing, Detail: fmt.Sprintf("it is of variant %s, wanted %s", is, p.variant)}
	}
	return nil
}

// atLeast compares a version such as "1.8.9"; what is no version is too old.
func atLeast(version string, want ...int) bool {
	parts := strings.Split(version, ".")
	for i, w := range want {
		if i >= len(parts) {
			return false
		}
		n, err := strconv.Atoi(parts[i])
		if err != nil || n < w {
			return false
		}
		if n > w {
			return true
		}
	}
	return true
}
