package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// strayPorts are where stray packets find a TCP server.
var strayPorts = []int{80, 81}

// strays makes the outside client the owner of every address of Services as far as packets are concerned that come to it, and has it
// answer as a server named "outside": what the proxy lets pass is then seen to arrive there, instead of being lost like what it drops.
func (c *cluster) strays() {
	c.t.Helper()
	if err := c.Client().Do(func() error { return own(append(slices.Clone(c.ServiceCIDRs), c.LoadBalancerCIDRs...)) }); err != nil {
		c.t.Fatalf("let the client have the addresses of Services: %v", err)
	}
	for _, port := range strayPorts {
		var l net.Listener
		err := c.Client().Do(func() (err error) {
			l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
			return err
		})
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() { _ = l.Close() })
		go answer(l)
	}
}

// own has the kernel deliver packets for some prefixes that come in, and still send away those that it is asked to send: the table of
// local addresses, which gets the prefixes, is asked after a rule for what the host itself sends.
func own(prefixes []netip.Prefix) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		local, first := netlink.NewRule(), netlink.NewRule()
		local.Family, local.Table, local.Priority = f, unix.RT_TABLE_LOCAL, 20
		first.Family, first.Table, first.Priority = f, unix.RT_TABLE_LOCAL, 0
		if err := errors.Join(netlink.RuleAdd(local), netlink.RuleDel(first)); err != nil {
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
		if err := errors.Join(netlink.RuleAdd(sent), netlink.RouteAdd(r)); err != nil {
			return fmt.Errorf("have %s: %w", p, err)
		}
	}
	return nil
}

// answer says in a server's words whom it saw, until the listener is closed.
func answer(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		at, peer := conn.LocalAddr().(*net.TCPAddr).AddrPort(), conn.RemoteAddr().(*net.TCPAddr).AddrPort()
		fmt.Fprintf(conn, "outside %s saw %s\n", at, netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port()))
		_ = conn.Close()
	}
}

// insiders are the origins whose stray packets reach the outside client.
var insiders = []string{localPod, remotePod, thisNode}

// passed expects that the proxy does nothing.
func passed() expectation { return kept("outside") }
