// Package conntrack removes the UDP flows that the kernel would keep sending to where no Service sends them any more.
package conntrack
