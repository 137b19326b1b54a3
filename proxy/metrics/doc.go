// Package metrics has every metric of the proxy, with its name, help, labels and buckets, in one struct.
package metrics
