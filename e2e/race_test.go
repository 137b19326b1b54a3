//go:build race

package e2e

// buildFlags have the binary look for data races if the tests do.
var buildFlags = []string{"-race"}
