// Package genl speaks the generic netlink family of IPVS: virtual servers and their destinations, in one network namespace.
package genl
