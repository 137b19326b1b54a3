// Package objects makes random Kubernetes objects for tests: Services and EndpointSlices as an API server would accept them,
// on the addresses of proxytest.Addressing.
package objects
