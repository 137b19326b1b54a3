package iptables

import (
	"net/netip"
	"testing"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// Names are those that kube-proxy gives to the same Service.
func TestNames(t *testing.T) {
	n := namingOf(proxytest.Name("ns1/svc1:p80/TCP"))
	for _, row := range []struct{ got, want string }{
		{n.pool(proxy.Cluster), "KUBE-SVC-XPGD46QRK7WJZT7O"},
		{n.pool(proxy.Local), "KUBE-SVL-XPGD46QRK7WJZT7O"},
		{n.chain(entryPrefix, ""), "KUBE-EXT-XPGD46QRK7WJZT7O"},
		{n.chain(sourcesPrefix, ""), "KUBE-FW-XPGD46QRK7WJZT7O"},
		{n.endpoint(&proxy.Endpoint{Addr: netip.MustParseAddrPort("10.180.0.1:80")}), "KUBE-SEP-SXIVWICOYRO3J4NJ"},
		{namingOf(proxytest.Name("default/kubernetes:https/TCP")).pool(proxy.Cluster), "KUBE-SVC-NPX46M4PTMTKRN6Y"},
	} {
		if row.got != row.want {
			t.Errorf("got %s, want %s", row.got, row.want)
		}
	}
}

func TestOwns(t *testing.T) {
	for _, row := range []struct {
		table, chain string
		want         bool
	}{
		{nat, "KUBE-SERVICES", true}, {nat, "KUBE-SVC-NPX46M4PTMTKRN6Y", true}, {nat, "KUBE-FW-NPX46M4PTMTKRN6Y", true},
		{filter, "KUBE-FORWARD", true}, {filter, "KUBE-PROXY-CLUSTER-IPS", true}, {mangle, "KUBE-PROXY-CANARY", true},
		{filter, "KUBE-SVC-NPX46M4PTMTKRN6Y", false}, {nat, "KUBE-FORWARD", false}, {mangle, "KUBE-SERVICES", false},
		{filter, "KUBE-FIREWALL", false}, {nat, "KUBE-MARK-DROP", false}, {mangle, "KUBE-IPTABLES-HINT", false},
		{mangle, "KUBE-KUBELET-CANARY", false}, {filter, "KUBE-ROUTER-INPUT", false}, {filter, "KUBE-POD-FW-NPX46M4PTMTKRN6Y", false},
		{filter, "KUBE-NWPLCY-NPX46M4PTMTKRN6Y", false}, {nat, "KUBE-SVC-MINE", false}, {nat, "KUBE-SVC-npx46m4ptmtkrn6y", false}, {nat, "OUTPUT", false},
	} {
		if got := Owns(row.table, row.chain); got != row.want {
			t.Errorf("%s %s: %t, want %t", row.table, row.chain, got, row.want)
		}
	}
}
