// Package ipvs makes a node's kernel follow a proxy.State by IPVS: virtual servers, addresses on a dummy interface, and a small nftables table.
package ipvs
