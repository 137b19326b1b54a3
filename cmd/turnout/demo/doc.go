// Package demo shows the proxy at work: it runs the real program in a cluster of network namespaces, makes real connections
// through it and says for each thing shown whether it is as it should be.
package demo
