package node

import (
	"fmt"
	"net/netip"
	"strings"

	"turnout/proxy"
)

// PodDetection is how packets from pods are told from others: the settings detectLocalMode, clusterCIDR and detectLocal.
type PodDetection struct {
	Mode PodMode
	// ClusterCIDRs are used by ClusterCIDR, PodCIDRs (the Node's spec.podCIDRs) by NodeCIDR.
	ClusterCIDRs, PodCIDRs []netip.Prefix
	Bridge                 string // interface name, used by BridgeInterface
	InterfacePrefix        string // used by InterfaceNamePrefix
	// Primary is the node's main family; SingleStack tells that there is no State for the other one.
	Primary     proxy.Family
	SingleStack bool
}

// PodMode is a value of the setting detectLocalMode.
type PodMode string

// The modes, spelled as in the configuration; "" means ClusterCIDR.
const (
	ClusterCIDR         PodMode = "ClusterCIDR"
	NodeCIDR            PodMode = "NodeCIDR"
	BridgeInterface     PodMode = "BridgeInterface"
	InterfaceNamePrefix PodMode = "InterfaceNamePrefix"
)

// consequence is what follows if pods cannot be recognised.
const consequence = "packets from pods cannot be recognised: connections to ClusterIPs from outside the cluster are not masqueraded, so their answers may be lost, " +
	"and pods reach services with externalTrafficPolicy Local through this node's endpoints only"

// LocalPods decides how packets of a family that come from pods are recognised. The warnings are for the log. The error is
// of the configuration: prefixes were given, but none of the family that the node needs.
func LocalPods(family proxy.Family, d PodDetection) (proxy.LocalPods, []string, error) {
	switch d.Mode {
	case ClusterCIDR, "":
		return d.byPrefix(family, "clusterCIDR", d.ClusterCIDRs, d.SingleStack)
	case NodeCIDR:
		return d.byPrefix(family, "spec.podCIDRs of the Node", d.PodCIDRs, true)
	case BridgeInterface:
		return named(proxy.LocalPods{Interface: d.Bridge}, "detectLocal.bridgeInterface")
	case InterfaceNamePrefix:
		return named(proxy.LocalPods{InterfacePrefix: d.InterfacePrefix}, "detectLocal.interfaceNamePrefix")
	}
	return proxy.LocalPods{}, nil, fmt.Errorf("detectLocalMode %q is not known: use ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix", d.Mode)
}

// byPrefix uses the first prefix of the family, as kube-proxy does; the configuration allows no more than one anyway.
func (d *PodDetection) byPrefix(family proxy.Family, setting string, prefixes []netip.Prefix, fatal bool) (proxy.LocalPods, []string, error) {
	if len(prefixes) == 0 {
		return proxy.LocalPods{}, []string{fmt.Sprintf("%s is empty, so %s packets: %s; set it to the addresses of pods", setting, family, consequence)}, nil
	}
	own := ofFamily(family, prefixes)
	if len(own) == 0 {
		err := fmt.Errorf("%s %s has no %s prefix, which this node needs: add the one that its pods have addresses of", setting, join(prefixes), family)
		if fatal && family == d.Primary {
			return proxy.LocalPods{}, nil, err
		}
		return proxy.LocalPods{}, []string{fmt.Sprintf("%s %s has no %s prefix, so %s packets: %s", setting, join(prefixes), family, family, consequence)}, nil
	}
	var warnings []string
	if len(own) > 1 {
		warnings = append(warnings, fmt.Sprintf("%s has several %s prefixes; only the first, %s, is used, and %s ignored", setting, family, own[0], join(own[1:])))
	}
	if d.SingleStack && len(own) < len(prefixes) {
		warnings = append(warnings, fmt.Sprintf("%s %s has prefixes of a family that this node does not have; they are ignored", setting, join(prefixes)))
	}
	return proxy.LocalPods{Prefixes: own[:1]}, warnings, nil
}

func named(l proxy.LocalPods, setting string) (proxy.LocalPods, []string, error) {
	if l.None() {
		return l, []string{fmt.Sprintf("%s is empty: %s; set it to the name that pods' interfaces have", setting, consequence)}, nil
	}
	return l, nil, nil
}

func ofFamily(family proxy.Family, prefixes []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range prefixes {
		if proxy.FamilyOf(p.Addr()) == family {
			out = append(out, p.Masked())
		}
	}
	return out
}

func join(prefixes []netip.Prefix) string {
	s := make([]string, len(prefixes))
	for i, p := range prefixes {
		s[i] = p.String()
	}
	return strings.Join(s, ",")
}
