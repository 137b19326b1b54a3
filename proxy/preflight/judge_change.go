package preflight

import (
	"fmt"
	"slices"
	"strings"

	"turnout/proxy"
	"turnout/proxy/config"
	"turnout/proxy/iptables"
	"turnout/proxy/ipvs"
)

// change is about what will not be as it is: from the mode that has rules in the kernel to the new one.
func (j *judge) change() {
	j.localhost()
	j.openLoopback()
	j.nodePortAddresses()
	j.invalid()
	j.undefined()
	if j.leaves(config.IPVS) {
		j.add(OK, Change, IPVSConnections, "", "connections that IPVS carries go on: what they need of it stays until the last has ended")
	}
	switch {
	case j.mode != config.IPVS:
	case j.leaves(config.NFTables) || j.leaves(config.IPTables):
		j.add(Warning, Change, IPVSLimits, "see what applies to the cluster's Services, or choose another mode", "mode ipvs does not do all that a Service may ask for: %s (docs/ipvs.md)", limits())
	default:
		j.add(OK, Change, IPVSLimits, "", "mode ipvs does not do all that a Service may ask for: %s (docs/ipvs.md)", limits())
	}
	for _, p := range j.now {
		if p.Mode != j.mode || p.By != "Turnout" {
			j.add(OK, Change, SessionAffinity, "", "clients of Services with session affinity may get another endpoint once")
			break
		}
	}
}

// limits names what mode ipvs cannot do.
func limits() string {
	var names []string
	for _, l := range ipvs.Limits() {
		names = append(names, l.Name)
	}
	return strings.Join(names, ", ")
}

// settings are those of the file, if there is one, or the defaults: nodePortAddresses, whether mode iptables serves NodePorts on loopback addresses, and
// conntrack.tcpBeLiberal. A file that cannot be read has findings of its own.
func (j *judge) settings() (nodePorts []string, localhost, liberal, known bool) {
	if j.facts.File != nil {
		if s, ok := settingsOf(j.facts.File.Data); ok {
			return s.nodePorts, s.localhost, s.liberal, true
		}
	}
	return nil, true, false, false
}

// localhost is about NodePorts on 127.0.0.1, which only mode iptables has.
func (j *judge) localhost() {
	_, localhost, _, _ := j.settings()
	served := j.facts.RouteLocalnet && localhost
	switch counted, there := j.facts.Counted[localhostCounter]; {
	case !j.leaves(config.IPTables) || !served:
	case there && counted == 0:
		j.add(OK, Change, LocalhostNodePorts, "", "NodePorts end on loopback addresses (127.0.0.1); no packet used them since the counter %s was made", localhostCounter)
	default:
		text := "NodePorts end on loopback addresses (127.0.0.1), which only mode iptables serves"
		if there {
			text += fmt.Sprintf("; %d packets used them (counter %s)", counted, localhostCounter)
		} else {
			text += "; whether anybody uses them was not counted"
		}
		j.add(Warning, Change, LocalhostNodePorts, "have their users connect to the node's address, to the ClusterIP or to a hostPort", "%s", text)
	}
	if j.mode == config.IPTables && localhost && (j.leaves(config.NFTables) || j.leaves(config.IPVS)) {
		j.add(OK, Change, LocalhostNodePorts, "", "NodePorts are served on loopback addresses (127.0.0.1), too, which makes packets from outside to such addresses pass the kernel's first check (route_localnet)")
	}
}

// openLoopback is about the node's private servers, which the setting for NodePorts on 127.0.0.1 opens to its neighbours, but for a rule of mode iptables, and of
// kubelet where that can write rules.
func (j *judge) openLoopback() {
	if !j.facts.RouteLocalnet || !j.leaves(config.IPTables) {
		return
	}
	for _, v := range [...]iptables.Variant{iptables.NFT, iptables.Legacy} {
		if slices.Contains(j.facts.chains(proxy.IPv4, v)["filter"], "KUBE-FIREWALL") {
			return
		}
	}
	j.add(Warning, Change, LocalhostNodePorts, "set net.ipv4.conf.all.route_localnet to 0 after the change, unless something else needs it",
		"the rule that keeps packets from outside from 127.0.0.0/8 goes with mode iptables, the setting route_localnet stays, and kubelet has no such rule here (KUBE-FIREWALL)")
}

// nodePortAddresses is about their default.
func (j *judge) nodePortAddresses() {
	nodePorts, _, _, known := j.settings()
	if len(nodePorts) > 0 {
		return
	}
	unset := "if nodePortAddresses is not set"
	if known {
		unset = "as nodePortAddresses is not set"
	}
	switch {
	case j.mode == config.NFTables && (j.from(config.IPTables) || j.from(config.IPVS)):
		j.add(Warning, Change, NodePortAddresses, "set nodePortAddresses to [0.0.0.0/0, ::/0] for all, or to [primary] if that is wanted; turnout config convert does the former",
			"%s, NodePorts are served on the node's primary addresses only, instead of on all", unset)
	case j.mode != config.NFTables && j.from(config.NFTables):
		j.add(Warning, Change, NodePortAddresses, "set nodePortAddresses to [primary]; turnout config convert does it",
			"%s, NodePorts are served on all of the node's addresses, instead of on the primary ones only", unset)
	}
}

// invalid is about packets that connection tracking cannot place, which mode iptables drops.
func (j *judge) invalid() {
	if _, _, liberal, _ := j.settings(); liberal || j.facts.TCPLiberal || !j.leaves(config.IPTables) {
		return
	}
	n, there := j.facts.Counted[invalidCounter]
	switch {
	case there && n > 0:
		j.add(Warning, Change, InvalidPackets, "set conntrack.tcpBeLiberal to true if such packets belong to good connections, or drop them by a rule of your own (ct state invalid)",
			"packets that connection tracking cannot place are not dropped any longer; %d were (counter %s)", n, invalidCounter)
	default:
		text := "packets that connection tracking cannot place are not dropped any longer"
		if there {
			text += fmt.Sprintf("; there were none (counter %s)", invalidCounter)
		}
		j.add(OK, Change, InvalidPackets, "", "%s", text)
	}
}

// undefined is about ports that a Service does not have.
func (j *judge) undefined() {
	for _, p := range j.now {
		switch {
		case p.By == "kube-proxy" && p.Mode == config.IPTables:
			j.add(OK, Change, UndefinedPorts, "", "ports that a Service does not have are rejected at its ClusterIP, and addresses of a ServiceCIDR that no Service has are dropped; kube-proxy's mode iptables lets both leave the node")
		case p.By == "kube-proxy" && p.Mode == config.IPVS && j.mode != config.IPVS:
			j.add(OK, Change, UndefinedPorts, "", "addresses of Services are no addresses of the node any longer: ports that a Service does not have are rejected at its ClusterIP, and routed on at its other addresses")
		default:
			continue
		}
		return
	}
}
