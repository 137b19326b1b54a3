// Package kind holds the tests of run.sh, which runs the network tests of Kubernetes against Turnout in a kind cluster. They need neither
// Docker nor kind.
package kind
