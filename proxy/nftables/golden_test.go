package nftables

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/cases"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) { os.Exit(proxytest.Main(m)) }

// textOf is the table that a node without one is given for a State.
func textOf(t testing.TB, s *proxy.State) string {
	t.Helper()
	var b strings.Builder
	if err := WriteText(&b, s); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// The text of the table, for each case and family.
func TestGolden(t *testing.T) { cases.Goldens(t, "nftables", *update, WriteText) }

// What the kernel holds is, as nft lists it, to the letter the text: so every expression does what its text says.
func TestKernelGolden(t *testing.T) {
	for _, c := range cases.All(t) {
		t.Run(c.Name, func(t *testing.T) {
			inKernel(t, func() {
				for _, s := range c.States {
					b := newTestBackend(t, Options{Family: s.Family})
					if r, err := b.Apply(t.Context(), s); err != nil || len(r.Rejected) > 0 || !r.Full {
						t.Fatalf("%s: %+v, %v", s.Family, r, err)
					}
					if diff := cmp.Diff(textOf(t, s), listTable(t, s.Family)); diff != "" {
						t.Errorf("%s: -text +nft:\n%s", s.Family, diff)
					}
				}
			})
		})
	}
}

// inKernel runs fn in a new network namespace; it skips the test where nft is missing.
func inKernel(t *testing.T, fn func()) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skipf("needs nft to look at the kernel: %v", err)
	}
	proxytest.InNamespace(t, fn)
}

func newTestBackend(t *testing.T, o Options) *Backend {
	t.Helper()
	b, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// nft runs nft in the namespace of the calling thread.
func nft(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("nft", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("nft %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func familyWord(f proxy.Family) string {
	return map[proxy.Family]string{proxy.IPv4: "ip", proxy.IPv6: "ip6"}[f]
}

// listTable is the table as nft lists it, normalised.
func listTable(t *testing.T, f proxy.Family) string {
	t.Helper()
	return normalise(nft(t, "list", "table", familyWord(f), TableName))
}

var (
	listing = regexp.MustCompile(`(?s)\t\telements = \{(.*?) \}\n`)
	expiry  = regexp.MustCompile(` (expires|timeout) [0-9a-z]+`)
)

// normalise puts a table's elements one a line, sorted, as WriteText does, and takes out when they end.
func normalise(listed string) string {
	return listing.ReplaceAllStringFunc(listed, func(s string) string {
		texts := splitElements(listing.FindStringSubmatch(s)[1])
		slices.Sort(texts)
		return fmt.Sprintf("\t\telements = {\n\t\t\t%s\n\t\t}\n", strings.Join(texts, ",\n\t\t\t"))
	})
}

// splitElements splits at commas; none of ours has one inside.
func splitElements(s string) []string {
	parts := strings.Split(s, ",")
	for i, p := range parts {
		parts[i] = expiry.ReplaceAllString(strings.Join(strings.Fields(p), " "), "")
	}
	return parts
}
