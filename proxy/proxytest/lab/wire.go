package lab

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// sysctls are set in every namespace before any link exists. Some defaults are otherwise taken over from the machine.
var sysctls = map[string]string{
	"ipv4/conf/all/rp_filter":          "0",
	"ipv4/conf/default/rp_filter":      "0",
	"ipv4/conf/all/accept_redirects":   "0",
	"ipv4/conf/all/send_redirects":     "0",
	"ipv4/conf/default/send_redirects": "0",
	// Errors that answer a rejected connection are rate limited by default, those to one address, and before Linux 6.12 those of the whole machine, too
	// (fifty at once); tests that send many would see some as drops. The masks are of the types that are limited: of none, and of one that is not in use.
	"ipv4/icmp_ratelimit": "0",
	"ipv6/icmp/ratelimit": "0",
	"ipv4/icmp_ratemask":  "0",
	"ipv6/icmp/ratemask":  "0",
	// Duplicate address detection would make IPv6 addresses unusable for a second.
	"ipv6/conf/all/accept_dad":     "0",
	"ipv6/conf/default/accept_dad": "0",
	"ipv6/conf/all/disable_ipv6":   "0",
	"ipv6/conf/default/accept_ra":  "0",
	"ipv6/conf/all/forwarding":     "0",
	"ipv4/ip_forward":              "0",
}

// prepare runs in a new namespace.
func prepare() error {
	var errs []error
	for name, value := range sysctls {
		errs = append(errs, setSysctl(name, value))
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback interface: %w", err)
	}
	return errors.Join(append(errs, netlink.LinkSetUp(lo))...)
}

func setSysctl(name, value string) error {
	err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0o644)
	if err != nil {
		return fmt.Errorf("set net.%s to %s: %w", strings.ReplaceAll(name, "/", "."), value, err)
	}
	return nil
}

// side is one end of a link: the addresses that it gets there, with their prefix lengths.
type side struct {
	host  *Host
	iface string
	addrs []string
}

// wire joins the namespaces. Pods have a /32 or /128 address and reach everything through their node, like with the
// simplest CNI plug-in (ptp).
func (l *Lab) wire() error {
	n1, n2, client := l.Node(), l.Host("n2"), l.Client()
	var errs []error
	for _, n := range []*Host{n1, n2} {
		errs = append(errs, n.Do(func() error {
			return errors.Join(setSysctl("ipv4/ip_forward", "1"), setSysctl("ipv6/conf/all/forwarding", "1"))
		}))
	}
	var outside []string
	for _, a := range client.Addrs {
		outside = append(outside, a.String()+onLink(a))
	}
	errs = append(errs,
		connect(side{n1, "eth0", []string{"192.168.50.1/24", "fd50::1/64"}}, side{client, "eth0", outside}),
		connect(side{n1, "eth1", []string{"192.168.51.1/24", "fd51::1/64"}},
			side{n2, "eth0", []string{"192.168.51.2/24", "fd51::2/64"}}),
		l.pods(n1, "10.244.1.1", "fd00:10:244:1::1"),
		l.pods(n2, "10.244.2.1", "fd00:10:244:2::1"),
		// The node's default route is the outside network, so that it has one for addresses of Services.
		route(n1, "eth0", "0.0.0.0/0", "192.168.50.100"), route(n1, "eth0", "::/0", "fd50::100"),
		route(n1, "eth1", "10.244.2.0/24", "192.168.51.2"), route(n1, "eth1", "fd00:10:244:2::/64", "fd51::2"),
		route(n2, "eth0", "0.0.0.0/0", "192.168.51.1"), route(n2, "eth0", "::/0", "fd51::1"),
		route(client, "eth0", "0.0.0.0/0", "192.168.50.1"), route(client, "eth0", "::/0", "fd50::1"),
	)
	return errors.Join(errs...)
}

// onLink is the prefix length of an address on the outside link.
func onLink(a netip.Addr) string {
	if a.Is4() {
		return "/24"
	}
	return "/64"
}

// pods joins a node's pods to it.
func (l *Lab) pods(node *Host, gateways ...string) error {
	var errs []error
	for _, p := range l.hosts {
		if !p.Pod || p.Node != node.Name {
			continue
		}
		iface := "veth-" + p.Name
		here, there := side{host: node, iface: iface}, side{host: p, iface: "eth0"}
		for _, g := range gateways {
			here.addrs = append(here.addrs, single(netip.MustParseAddr(g)))
		}
		for _, a := range p.Addrs {
			there.addrs = append(there.addrs, single(a))
		}
		errs = append(errs, connect(here, there))
		for _, a := range p.Addrs {
			errs = append(errs, route(node, iface, single(a), ""))
		}
		for _, g := range gateways {
			gw := netip.MustParseAddr(g)
			errs = append(errs, route(p, "eth0", single(gw), ""), route(p, "eth0", everything(gw), g))
		}
	}
	return errors.Join(errs...)
}

func single(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }

func everything(a netip.Addr) string {
	if a.Is4() {
		return "0.0.0.0/0"
	}
	return "::/0"
}

// connect joins two hosts by a veth pair and sets both ends up.
func connect(a, b side) error {
	return a.host.netlink(func(h *netlink.Handle) error {
		veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: b.iface, PeerNamespace: netlink.NsFd(b.host.ns.Fd())}
		veth.Name = a.iface
		if err := h.LinkAdd(veth); err != nil {
			return fmt.Errorf("add veth pair %s of %s, %s of %s: %w", a.iface, a.host.Name, b.iface, b.host.Name, err)
		}
		if err := up(h, a); err != nil {
			return err
		}
		return b.host.netlink(func(h *netlink.Handle) error { return up(h, b) })
	})
}

// up gives a link its addresses and sets it up.
func up(h *netlink.Handle, s side) error {
	link, err := h.LinkByName(s.iface)
	if err != nil {
		return fmt.Errorf("find link %s of %s: %w", s.iface, s.host.Name, err)
	}
	var errs []error
	seen6 := false
	for _, text := range s.addrs {
		addr, err := netlink.ParseAddr(text)
		if err == nil {
			if addr.IP.To4() == nil {
				prepare6(addr, seen6)
				seen6 = true
			}
			err = h.AddrAdd(link, addr)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("add address %s to %s of %s: %w", text, s.iface, s.host.Name, err))
		}
	}
	return errors.Join(append(errs, h.LinkSetUp(link))...)
}

// prepare6 makes an IPv6 address usable at once. All but the first of a link are deprecated, which means that they are sources
// only of what is bound to them; with IPv4 that is so by itself.
func prepare6(addr *netlink.Addr, further bool) {
	addr.Flags = unix.IFA_F_NODAD
	if further {
		addr.ValidLft, addr.PreferedLft = math.MaxUint32, 0
	}
}

// route adds a route through a link, to a gateway if via is not "".
func route(host *Host, iface, to, via string) error {
	return host.netlink(func(h *netlink.Handle) error {
		link, err := h.LinkByName(iface)
		if err != nil {
			return fmt.Errorf("find link %s of %s: %w", iface, host.Name, err)
		}
		dst, err := netlink.ParseIPNet(to)
		if err != nil {
			return err
		}
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK}
		if via != "" {
			r.Gw, r.Scope = net.ParseIP(via), netlink.SCOPE_UNIVERSE
		}
		if err := h.RouteAdd(r); err != nil {
			return fmt.Errorf("add route %s to %s of %s: %w", to, iface, host.Name, err)
		}
		return nil
	})
}

// netlink runs fn with a netlink handle of the namespace.
func (h *Host) netlink(fn func(*netlink.Handle) error) error {
	handle, err := netlink.NewHandleAt(netns.NsHandle(h.ns.Fd()), 0)
	if err != nil {
		return fmt.Errorf("open netlink in namespace of %s: %w", h.Name, err)
	}
	defer handle.Close()
	return fn(handle)
}
