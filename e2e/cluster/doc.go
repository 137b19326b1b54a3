// Package cluster holds the tests of the built binary on a node of a real cluster: its objects come from an API server, its EndpointSlices
// from the controllers, and what becomes of real packets judges it.
package cluster
