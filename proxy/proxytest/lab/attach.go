package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"turnout/proxy/proxytest"
)

// Attach joins one more machine to n2: one that is no node, such as the control plane of the cluster. n2 has the first address of each
// network, the machine the second; all others reach it through n2. It is not among Cluster.Hosts, and goes with the lab.
// The name may have ten characters, as the link on n2 is called after it.
func (l *Lab) Attach(name string, networks ...netip.Prefix) (*Host, error) {
	n2 := l.Host("n2")
	var gateways, addrs []string
	var all []netip.Addr
	for _, n := range networks {
		gateway := n.Masked().Addr().Next()
		all = append(all, gateway.Next())
		gateways = append(gateways, netip.PrefixFrom(gateway, n.Bits()).String())
		addrs = append(addrs, netip.PrefixFrom(gateway.Next(), n.Bits()).String())
	}
	host, err := newHost(proxytest.Host{Name: name, Addrs: all})
	if err != nil {
		return nil, fmt.Errorf("make namespace for %s: %w", name, err)
	}
	l.hosts = append(l.hosts, host)
	errs := []error{connect(side{n2, "veth-" + name, gateways}, side{host, "eth0", addrs})}
	for _, n := range networks {
		gateway := n.Masked().Addr().Next()
		errs = append(errs, route(host, "eth0", everything(gateway), gateway.String()))
		via := "192.168.51.2"
		if gateway.Is6() {
			via = "fd51::2"
		}
		errs = append(errs, route(l.Node(), "eth1", n.Masked().String(), via))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("attach %s: %w", name, err)
	}
	return host, l.settle()
}
