// Package survey reads, over netlink, which tables there are in nftables and which of anybody's rules change the destination of packets.
package survey
