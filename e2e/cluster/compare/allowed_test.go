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

var allowances = []allowance{}

// allowed tells whether a difference is meant to be, and logs the reason.
func allowed(t *testing.T, d *difference) bool {
	for _, a := range allowances {
		if a.covers(d) {
			t.Logf("allowed (%s): %v", a.reason, d)
			return true
		}
	}
	return false
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
