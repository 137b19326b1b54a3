package leftovers

import "strings"

// Tables of iptables that kube-proxy writes to, in the order in which they are looked through.
var iptablesTables = []string{"nat", "filter", "mangle"}

// Chains that kube-proxy makes by fixed names, by table: those of mode iptables, then those of mode ipvs, then those of releases before 1.14.
// Not among them, though alike: kubelet's KUBE-FIREWALL, KUBE-MARK-DROP, KUBE-KUBELET-CANARY and KUBE-IPTABLES-HINT (KEP-3178), and
// kube-router's KUBE-ROUTER-*, KUBE-POD-FW-* and KUBE-NWPLCY-*.
var chainNames = map[string][]string{
	"nat": {
		"KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", "KUBE-PROXY-CANARY",
		"KUBE-NODE-PORT", "KUBE-LOAD-BALANCER",
		"KUBE-PORTALS-HOST", "KUBE-PORTALS-CONTAINER", "KUBE-NODEPORT-HOST", "KUBE-NODEPORT-CONTAINER",
	},
	"filter": {
		"KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL", "KUBE-PROXY-CANARY",
		"KUBE-NODE-PORT", "KUBE-SOURCE-RANGES-FIREWALL", "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER",
		"KUBE-NODEPORT-NON-LOCAL",
	},
	"mangle": {"KUBE-PROXY-CANARY"},
}

// Prefixes of the chains in table nat that kube-proxy makes for each Service port and endpoint; behind them is a hash.
var chainPrefixes = []string{"KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-", "KUBE-XLB-"}

// hashLength is the number of base32 digits in the names of such chains.
const hashLength = 16

// ownsChain tells that a chain of a table is one that kube-proxy makes.
func ownsChain(table, name string) bool {
	for _, n := range chainNames[table] {
		if n == name {
			return true
		}
	}
	if table != "nat" {
		return false
	}
	for _, p := range chainPrefixes {
		if hash, ok := strings.CutPrefix(name, p); ok {
			return len(hash) == hashLength && strings.Trim(hash, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
		}
	}
	return false
}
