// Package proxytest is test support: empty network namespaces, a packet tracer over proxy.State, State builders and random
// Kubernetes objects. Its subpackage lab builds a small cluster of network namespaces.
package proxytest
