package compare

import (
	"os"
	"strings"
	"testing"
)

// allowance is a difference between the proxies that is meant to be.
type allowance struct {
	// reason is a piece of text of docs/differences.md, which says why.
	reason string
	// covers tells that a difference is of this kind.
	covers func(*difference) bool
}

var allowances = []allowance{
	{"One Service has an address of another", func(d *difference) bool { return d.contested }},
	{"**Endpoints listed twice**", func(d *difference) bool { return d.ambiguous }},
}

// allowed returns the reason of a difference that is meant to be, "" of any other.
func allowed(d *difference) (reason string) {
	for _, a := range allowances {
		if a.covers(d) {
			return a.reason
		}
	}
	return ""
}

// TestAllowancesHaveReasons finds the reason of each allowance on the page that lists all differences.
func TestAllowancesHaveReasons(t *testing.T) {
	page, err := os.ReadFile("../../../docs/differences.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range allowances {
		if !strings.Contains(string(page), a.reason) {
			t.Errorf("docs/differences.md does not say %q", a.reason)
		}
	}
}
