//go:build !race

package e2e

// buildFlags are the further flags of go build.
var buildFlags []string
