package node

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
)

func TestLocalPods(t *testing.T) {
	prefix := func(s string) proxy.LocalPods { return proxy.LocalPods{Prefixes: prefixes(s)} }
	dual := prefixes("10.1.0.0/16", "fd00:1::/48")
	v4 := prefixes("10.1.0.0/16")
	v6 := prefixes("fd00:1::/48")
	const none = "cannot be recognised"

	for _, tt := range []struct {
		name   string
		family proxy.Family
		d      PodDetection
		want   proxy.LocalPods
		tells  []string
	}{
		{"cluster CIDR", proxy.IPv4, PodDetection{Mode: ClusterCIDR, ClusterCIDRs: dual}, prefix("10.1.0.0/16"), nil},
		{"cluster CIDR of IPv6", proxy.IPv6, PodDetection{Mode: ClusterCIDR, ClusterCIDRs: dual}, prefix("fd00:1::/48"), nil},
		{"is the default", proxy.IPv4, PodDetection{ClusterCIDRs: v4}, prefix("10.1.0.0/16"), nil},
		{"the network of an address is meant", proxy.IPv4, PodDetection{ClusterCIDRs: prefixes("10.1.2.3/16")}, prefix("10.1.0.0/16"), nil},
		{"node CIDR", proxy.IPv4, PodDetection{Mode: NodeCIDR, PodCIDRs: prefixes("10.1.7.0/24"), ClusterCIDRs: v4}, prefix("10.1.7.0/24"), nil},
		{"bridge", proxy.IPv6, PodDetection{Mode: BridgeInterface, Bridge: "cni0", ClusterCIDRs: dual}, proxy.LocalPods{Interface: "cni0"}, nil},
		{"interface prefix", proxy.IPv4, PodDetection{Mode: InterfaceNamePrefix, InterfacePrefix: "cali"}, proxy.LocalPods{InterfacePrefix: "cali"}, nil},
		{"only the first prefix of a family", proxy.IPv4, PodDetection{ClusterCIDRs: prefixes("10.1.0.0/16", "10.0.0.0/16")}, prefix("10.1.0.0/16"), []string{"10.0.0.0/16 ignored"}},
		{"no cluster CIDR", proxy.IPv4, PodDetection{SingleStack: true}, proxy.LocalPods{}, []string{none}},
		{"no node CIDR", proxy.IPv4, PodDetection{Mode: NodeCIDR, ClusterCIDRs: v4}, proxy.LocalPods{}, []string{none}},
		{"no bridge", proxy.IPv4, PodDetection{Mode: BridgeInterface}, proxy.LocalPods{}, []string{"detectLocal.bridgeInterface is empty"}},
		{"no interface prefix", proxy.IPv4, PodDetection{Mode: InterfaceNamePrefix}, proxy.LocalPods{}, []string{"detectLocal.interfaceNamePrefix is empty"}},
		{"cluster CIDR of the other family, dual stack", proxy.IPv4, PodDetection{ClusterCIDRs: v6}, proxy.LocalPods{}, []string{none}},
		{"cluster CIDR of one family, the other's State", proxy.IPv6, PodDetection{ClusterCIDRs: v4}, proxy.LocalPods{}, []string{none}},
		{"node CIDR of the primary family, the other's State", proxy.IPv6, PodDetection{Mode: NodeCIDR, PodCIDRs: v4}, proxy.LocalPods{}, []string{none}},
		{"both families on a node of one", proxy.IPv4, PodDetection{ClusterCIDRs: dual, SingleStack: true}, prefix("10.1.0.0/16"), []string{"family that this node does not have"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.d.Primary = proxy.IPv4
			got, warnings, err := LocalPods(tt.family, tt.d)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmp.Transformer("text", netip.Prefix.String)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			checkWarnings(t, warnings, tt.tells...)
		})
	}
}

func TestLocalPodsThatCannotWork(t *testing.T) {
	for _, tt := range []struct {
		name  string
		d     PodDetection
		tells string
	}{
		{"cluster CIDRs of the other family only, single stack", PodDetection{ClusterCIDRs: prefixes("fd00:1::/48"), SingleStack: true}, "clusterCIDR fd00:1::/48 has no IPv4 prefix"},
		{"pod CIDRs of the other family only", PodDetection{Mode: NodeCIDR, PodCIDRs: prefixes("fd00:1::/48")}, "spec.podCIDRs of the Node fd00:1::/48 has no IPv4 prefix"},
		{"unknown mode", PodDetection{Mode: "Guess"}, `detectLocalMode "Guess"`},
	} {
		tt.d.Primary = proxy.IPv4
		got, _, err := LocalPods(proxy.IPv4, tt.d)
		if err == nil || !strings.Contains(err.Error(), tt.tells) || !got.None() {
			t.Errorf("%s: got %+v, %v", tt.name, got, err)
		}
	}
}
