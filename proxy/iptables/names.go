package iptables

import (
	"crypto/sha256"
	"encoding/base32"
	"slices"
	"strings"

	"turnout/proxy"
)

// Tables that the mode writes to, in the order in which they are written.
const (
	nat    = "nat"
	filter = "filter"
	mangle = "mangle"
)

// Chains that kube-proxy has too, under the same names: whichever of the two cleans up finds what the other one left.
const (
	servicesChain         = "KUBE-SERVICES"
	externalServicesChain = "KUBE-EXTERNAL-SERVICES"
	nodePortsChain        = "KUBE-NODEPORTS"
	postroutingChain      = "KUBE-POSTROUTING"
	markChain             = "KUBE-MARK-MASQ"
	forwardChain          = "KUBE-FORWARD"
	firewallChain         = "KUBE-PROXY-FIREWALL"
	canaryChain           = "KUBE-PROXY-CANARY"
)

// Chains of table filter that kube-proxy does not have. It empties KUBE-SERVICES, the only chain that leads to them, so that they mean nothing
// after its cleanup.
const (
	clusterIPsChain = "KUBE-PROXY-CLUSTER-IPS"
	rejectChain     = "KUBE-PROXY-REJECT"
)

// Prefixes of chains in table nat that belong to one Service port or endpoint; behind them is a hash.
const (
	clusterPrefix  = "KUBE-SVC-"
	localPrefix    = "KUBE-SVL-"
	entryPrefix    = "KUBE-EXT-"
	sourcesPrefix  = "KUBE-FW-"
	endpointPrefix = "KUBE-SEP-"
)

// staticChains are the chains of a table that are always there.
var staticChains = map[string][]string{
	nat:    {servicesChain, nodePortsChain, postroutingChain, markChain, canaryChain},
	filter: {servicesChain, externalServicesChain, nodePortsChain, firewallChain, forwardChain, clusterIPsChain, rejectChain, canaryChain},
	mangle: {canaryChain},
}

var tables = [...]string{nat, filter, mangle}

// Owns tells that a chain of a table is one that this mode, or kube-proxy's mode iptables, makes. The prefix KUBE- alone does not tell: kubelet and
// kube-router use it, too.
func Owns(table, chain string) bool {
	if slices.Contains(staticChains[table], chain) {
		return true
	}
	if table != nat {
		return false
	}
	for _, p := range [...]string{clusterPrefix, localPrefix, entryPrefix, sourcesPrefix, endpointPrefix} {
		if hash, ok := strings.CutPrefix(chain, p); ok {
			return len(hash) == hashLength && strings.Trim(hash, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
		}
	}
	return false
}

// Jump is a rule by which one of the kernel's own chains leads to one of ours.
type Jump struct {
	Table, From, To string
	// match is the rule but for its target, to the letter as kube-proxy has it: it deletes jumps by their text.
	match string
}

func (j *Jump) rule() string { return j.match + " -j " + j.To }

const (
	isNew    = "-m conntrack --ctstate NEW"
	portals  = ` -m comment --comment "kubernetes service portals"`
	visible  = ` -m comment --comment "kubernetes externally-visible service portals"`
	firewall = ` -m comment --comment "kubernetes load balancer firewall"`
)

// Jumps are all of them. Where one chain has several, the last comes first among its rules.
var Jumps = [...]Jump{
	{nat, "OUTPUT", servicesChain, portals[1:]},
	{nat, "PREROUTING", servicesChain, portals[1:]},
	{nat, "POSTROUTING", postroutingChain, `-m comment --comment "kubernetes postrouting rules"`},
	{filter, "INPUT", externalServicesChain, isNew + visible},
	{filter, "FORWARD", externalServicesChain, isNew + visible},
	{filter, "INPUT", nodePortsChain, `-m comment --comment "kubernetes health check service ports"`},
	{filter, "FORWARD", servicesChain, isNew + portals},
	{filter, "OUTPUT", servicesChain, isNew + portals},
	{filter, "FORWARD", forwardChain, `-m comment --comment "kubernetes forwarding rules"`},
	{filter, "INPUT", firewallChain, isNew + firewall},
	{filter, "OUTPUT", firewallChain, isNew + firewall},
	{filter, "FORWARD", firewallChain, isNew + firewall},
}

// hashLength is the number of base32 digits in the names of chains.
const hashLength = 16

// naming makes the names of one Service port's chains.
type naming struct{ key string }

func namingOf(n proxy.ServicePortName) naming {
	key := n.ServiceName.String()
	if n.Port != "" {
		key += ":" + n.Port
	}
	return naming{key + strings.ToLower(n.Protocol.String())}
}

// chain returns the name of a chain; further is "" for the one that kube-proxy would have, and tells others apart.
func (n naming) chain(prefix, further string) string {
	sum := sha256.Sum256([]byte(n.key + further))
	return prefix + base32.StdEncoding.EncodeToString(sum[:])[:hashLength]
}

func (n naming) pool(p proxy.Pool) string {
	if p == proxy.Local {
		return n.chain(localPrefix, "")
	}
	return n.chain(clusterPrefix, "")
}

func (n naming) endpoint(e *proxy.Endpoint) string { return n.chain(endpointPrefix, e.Addr.String()) }
