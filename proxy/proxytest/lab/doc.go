// Package lab is a small Kubernetes cluster of network namespaces: two nodes with pods and an outside client, joined by veth
// links, without an API server or containers. Real sockets in them show what a proxy on node n1 does to connections.
//
// The namespaces have no names and are held by file descriptors only, so that whatever ends the process removes them.
// Addresses are those of proxytest.Addressing.
package lab
