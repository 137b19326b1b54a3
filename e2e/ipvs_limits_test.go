package e2e

import (
	"fmt"
	"slices"

	"turnout/proxy"
	"turnout/proxy/ipvs"
)

// limited tells whether the mode under test has a limit that is declared under this name. Only mode ipvs has any. A test asks where the limit makes
// it expect something else; a name that is not declared is a mistake in the test.
func limited(name string) bool {
	declared := slices.ContainsFunc(ipvs.Limits(), func(l ipvs.Limit) bool { return l.Name == name })
	if !declared {
		panic(fmt.Sprintf("mode ipvs declares no limit %q", name))
	}
	return proxyMode() == "ipvs"
}

// unlessLimited returns what must become of connections, and instead of it what a limit leaves of that.
func unlessLimited(limit string, want, instead expectation) expectation {
	if limited(limit) {
		return instead
	}
	return want
}

// withinLimits is what the mode under test makes of a State.
func withinLimits(s *proxy.State) *proxy.State {
	if limited("one-pool") {
		return ipvs.Expressible(s)
	}
	return s
}
