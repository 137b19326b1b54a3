package e2e

import (
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"turnout/proxy/proxytest/lab"
)

// nft runs the command nft on a host. It is another process that meddles with the tables, and a second opinion on what they hold.
type nft struct {
	t    *testing.T
	host *lab.Host
	path string
}

// newNft skips the test if there is no nft.
func newNft(t *testing.T, host *lab.Host) *nft {
	t.Helper()
	path, err := exec.LookPath("nft")
	if err != nil {
		t.Skipf("needs the command nft: %v", err)
	}
	return &nft{t, host, path}
}

// run runs nft with arguments and returns what it says; an error fails the test.
func (n *nft) run(args ...string) string {
	n.t.Helper()
	out, err := n.try("", args...)
	if err != nil {
		n.t.Fatalf("nft %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// load has nft execute a text.
func (n *nft) load(text string) {
	n.t.Helper()
	if out, err := n.try(text, "-f", "-"); err != nil {
		n.t.Fatalf("nft: %v: %s\n%s", err, out, text)
	}
}

// try runs nft with a text as its input.
func (n *nft) try(text string, args ...string) (string, error) {
	var out strings.Builder
	cmd := exec.Command(n.path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(text), &out, &out
	if err := n.host.Start(cmd); err != nil {
		return "", err
	}
	err := cmd.Wait()
	return out.String(), err
}

// handle is the number by which the kernel knows a table of IPv4: another one is another table.
func (n *nft) handle(table string) string {
	n.t.Helper()
	first, _, _ := strings.Cut(n.run("-a", "-t", "list", "table", "ip", table), "\n")
	return first
}

// size is the capacity of a map of the own table of IPv4.
func (n *nft) size(name string) (size int) {
	n.t.Helper()
	if m := sizeLine.FindStringSubmatch(n.run("-t", "list", "map", "ip", "kube-proxy", name)); m != nil {
		size, _ = strconv.Atoi(m[1])
	}
	return size
}

// A listedRule is a rule as nft shows it.
type listedRule struct{ chain, text, handle string }

var (
	chainLine = regexp.MustCompile(`^\tchain (\S+) \{`)
	sizeLine  = regexp.MustCompile(`\bsize (\d+)`)
	ruleLine  = regexp.MustCompile(`^\t\t(.*) # handle (\d+)$`)
)

// rules lists the rules of a table in their order.
func (n *nft) rules(family, table string) (out []listedRule) {
	n.t.Helper()
	chain := ""
	for line := range strings.Lines(n.run("-a", "list", "table", family, table)) {
		line = strings.TrimRight(line, "\n")
		if m := chainLine.FindStringSubmatch(line); m != nil {
			chain = m[1]
		} else if line == "\t}" {
			chain = ""
		} else if m := ruleLine.FindStringSubmatch(line); m != nil && chain != "" {
			out = append(out, listedRule{chain, m[1], m[2]})
		}
	}
	return out
}

// rule finds one rule of the own table in a chain by a part of its text.
func (n *nft) rule(chain, part string) listedRule {
	n.t.Helper()
	for _, r := range n.rules("ip", "kube-proxy") {
		if r.chain == chain && strings.Contains(r.text, part) {
			return r
		}
	}
	n.t.Fatalf("no rule in chain %s has %q", chain, part)
	return listedRule{}
}

// listing is the own table of a family without what changes by itself or has no meaning: elements are sorted, chains and sets, too,
// and clients with affinity are left out.
func (n *nft) listing(family string) string {
	n.t.Helper()
	return normalise(n.run("list", "table", family, "kube-proxy"))
}

var elementsOf = regexp.MustCompile(`(?s)elements = \{(.*?)\n?\t*\}\n`)

func normalise(listing string) string {
	listing = elementsOf.ReplaceAllStringFunc(listing, func(text string) string {
		list := strings.Split(elementsOf.FindStringSubmatch(text)[1], ",")
		for i := range list {
			list[i] = "\n\t\t\t" + strings.TrimSpace(list[i])
		}
		slices.Sort(list)
		return "elements = {" + strings.Join(list, "") + "\n\t\t}\n"
	})
	blocks := strings.Split(listing, "\n\t}\n")
	for i := range blocks {
		blocks[i] = strings.TrimSpace(blocks[i])
		if strings.HasPrefix(blocks[i], "map affinity") {
			blocks[i] = "map affinity"
		}
	}
	slices.Sort(blocks[1:])
	return strings.Join(blocks, "\n}\n")
}
