// Package compat reads, over netlink, the tables that iptables-nft keeps in the kernel, whether or not the programs of iptables can still read
// them.
package compat
