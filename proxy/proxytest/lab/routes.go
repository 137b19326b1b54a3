package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Symmetric has the answers of n2's pods to pods of the same node pass through n1 too, as they would if the client's own node had
// chosen the endpoint: n2 has no proxy, so its pods reach Services through n1. It must not be called twice.
func (l *Lab) Symmetric() error {
	return l.Host("n2").netlink(func(h *netlink.Handle) error {
		for _, pod := range l.Pods("n2") {
			for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
				rule := netlink.NewRule()
				rule.Family, rule.IifName, rule.Table, rule.Priority = f, "veth-"+pod.Name, 100, 100
				if err := h.RuleAdd(rule); err != nil {
					return fmt.Errorf("rule for %s: %w", pod.Name, err)
				}
			}
		}
		link, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		for to, via := range map[string]string{"0.0.0.0/0": "192.168.51.1", "::/0": "fd51::1"} {
			_, everywhere, err := net.ParseCIDR(to)
			if err != nil {
				return err
			}
			r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: everywhere, Gw: net.ParseIP(via), Table: 100}
			if err := h.RouteAdd(r); err != nil {
				return fmt.Errorf("route via %s: %w", via, err)
			}
		}
		return nil
	})
}

// Stray is the name by which the outside client answers stray packets.
const Stray = "outside"

// CatchStrays makes the outside client the owner of every address of Services as far as packets are concerned that come to it, and has
// it answer TCP connections to some ports as a server named Stray: what the proxy lets pass is then seen to arrive there, instead of
// being lost like what it drops. It must not be called twice.
func (l *Lab) CatchStrays(ports ...uint16) error {
	c := l.Client()
	err := c.netlink(func(h *netlink.Handle) error {
		return receive(h, append(slices.Clone(l.ServiceCIDRs), l.LoadBalancerCIDRs...))
	})
	if err != nil {
		return fmt.Errorf("let the client have the addresses of Services: %w", err)
	}
	for _, port := range ports {
		var listener net.Listener
		err := c.Do(func() (err error) {
			listener, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
			return err
		})
		if err == nil {
			err = c.own(listener)
		}
		if err != nil {
			return fmt.Errorf("catch strays to port %d: %w", port, err)
		}
		go answerStrays(listener)
	}
	return nil
}

// receive has the kernel deliver packets for some prefixes that come in, and still send away those that it is asked to send: the table
// of local addresses, which gets the prefixes, is asked after a rule for what the host itself sends.
func receive(h *netlink.Handle, prefixes []netip.Prefix) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		local, first := netlink.NewRule(), netlink.NewRule()
		local.Family, local.Table, local.Priority = f, unix.RT_TABLE_LOCAL, 20
		first.Family, first.Table, first.Priority = f, unix.RT_TABLE_LOCAL, 0
		if err := errors.Join(h.RuleAdd(local), h.RuleDel(first)); err != nil {
			return fmt.Errorf("move the rule for local addresses: %w", err)
		}
	}
	for _, p := range prefixes {
		to := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
		sent := netlink.NewRule()
		sent.Family, sent.IifName, sent.Dst, sent.Table, sent.Priority = netlink.FAMILY_V4, "lo", to, unix.RT_TABLE_MAIN, 10
		r := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: to, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST}
		if p.Addr().Is6() {
			sent.Family, r.Scope = netlink.FAMILY_V6, netlink.SCOPE_UNIVERSE
		}
		if err := errors.Join(h.RuleAdd(sent), h.RouteAdd(r)); err != nil {
			return fmt.Errorf("have %s: %w", p, err)
		}
	}
	return nil
}

// answerStrays says in a server's words whom it saw, until the listener is closed.
func answerStrays(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		at, peer := conn.LocalAddr().(*net.TCPAddr).AddrPort(), conn.RemoteAddr().(*net.TCPAddr).AddrPort()
		at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
		fmt.Fprintf(conn, "%s %s saw %s\n", Stray, at, netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port()))
		_ = conn.Close()
	}
}
