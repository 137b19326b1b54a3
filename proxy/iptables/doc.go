// Package iptables makes a node's kernel follow a proxy.State in kube-proxy's chains, with the programs iptables-restore and ip6tables-restore of
// either variant, nft or legacy.
//
// The package is built as a straight line: render.go and filter.go turn a State into rules as text; build.go and diff.go turn two
// States into the input of iptables-restore; commit.go is the only file that runs programs. README.md beside this file tells what stands in
// which chain, and why.
package iptables
