// Package compat reads, over netlink, the tables that iptables-nft keeps in the kernel, and removes parts of them, whether or not the programs of
// iptables can still read them.
package compat
