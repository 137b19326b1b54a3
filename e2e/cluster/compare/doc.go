// Package compare tests Turnout beside the real kube-proxy: the same objects, configuration, packets and requests must come to the same
// with both, but for the differences of allowed_test.go, which docs/differences.md gives the reasons for.
package compare
