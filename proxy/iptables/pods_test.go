package iptables

import (
	"testing"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// Every way in which pods may be recognised makes rules that the programs and the kernel take: such that name all addresses, or an interface whose name is as long
// as one can be.
func TestKernelLocalPods(t *testing.T) {
	inKernel(t, func(t *testing.T, o Options) {
		b := newKernelBackend(t, o)
		for _, pods := range []proxy.LocalPods{
			{Prefixes: proxytest.Of(o.Family, proxytest.Addressing().ClusterCIDRs)},
			{Prefixes: everywhere(o.Family)}, {Interface: "veth-of-15-char"}, {InterfacePrefix: "veth-of-15-char"}, {InterfacePrefix: "veth-of-14-cha"}, {},
		} {
			s := proxytest.NewState(o.Family, web(o.Family, 0, "2", "3"))
			node := *s.Node
			node.LocalPods, s.Node = pods, &node
			mustApply(t, b, s)
		}
	})
}
