package ipvs

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// Device is the name of the dummy interface that has the addresses of Services. Other components know it by this name and leave its addresses alone.
const Device = "kube-ipvs0"

// dummy is the device in the kernel. It stays down: the addresses are local all the same, and nothing is ever sent through it.
type dummy struct {
	family   proxy.Family
	handle   *netlink.Handle
	patience time.Duration // of Await
}

var _ device = (*dummy)(nil)

func openDevice(f proxy.Family) (*dummy, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a route netlink socket: %w", err)
	}
	return &dummy{family: f, handle: h, patience: 10 * time.Second}, nil
}

func (d *dummy) link() (netlink.Link, error) {
	l, err := d.handle.LinkByName(Device)
	if _, ok := errors.AsType[netlink.LinkNotFoundError](err); ok {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for interface %s: %w", Device, err)
	}
	return l, nil
}

// Addresses is part of device.
func (d *dummy) Addresses() (ours, others map[netip.Addr]bool, err error) {
	l, err := d.link()
	if err != nil {
		return nil, nil, err
	}
	others = map[netip.Addr]bool{}
	index := -1
	if l != nil {
		index, ours = l.Attrs().Index, map[netip.Addr]bool{}
	}
	family := netlink.FAMILY_V4
	if d.family == proxy.IPv6 {
		family = netlink.FAMILY_V6
	}
	addrs, err := listAddrs(func() ([]netlink.Addr, error) { return d.handle.AddrList(nil, family) })
	if err != nil {
		return nil, nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		switch ip = ip.Unmap(); {
		case !ok:
		case a.LinkIndex == index:
			ours[ip] = true
		default:
			others[ip] = true
		}
	}
	return ours, others, nil
}

// listAttempts is how often a listing is begun that the kernel calls incomplete, since addresses changed meanwhile.
const listAttempts = 5

// listAddrs lists addresses, but those that the kernel makes itself for the link when an interface goes up.
func listAddrs(list func() ([]netlink.Addr, error)) ([]netlink.Addr, error) {
	var addrs []netlink.Addr
	var err error
	for range listAttempts {
		if addrs, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(addrs, func(a netlink.Addr) bool {
		length, bits := a.Mask.Size()
		return bits == 128 && length < bits && a.IP.IsLinkLocalUnicast()
	}), nil
}

// Probe is part of device.
func (d *dummy) Probe() error {
	if l, err := d.link(); l != nil || err != nil {
		return err
	}
	if err := d.Make(); err != nil {
		return err
	}
	return d.Remove()
}

// Make is part of device.
func (d *dummy) Make() error {
	if l, err := d.link(); l != nil || err != nil {
		return err
	}
	err := d.handle.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: Device}})
	if err != nil && !errors.Is(err, unix.EEXIST) { // the other family's Backend may have been faster
		return fmt.Errorf("make dummy interface %s (does the kernel have the module dummy?): %w", Device, err)
	}
	return nil
}

// Add is part of device.
func (d *dummy) Add(a netip.Addr) error {
	return d.change(a, "add", d.handle.AddrAdd, unix.EEXIST)
}

// Await is part of device. An IPv6 address becomes local in the background, after the answer to who added it (addrconf_dad_work), and not before RTNL is free. Until
// then packets to it leave the node, which nobody must rely on to be past: another mode's rules may go as soon as this mode has its own.
func (d *dummy) Await(addrs ...netip.Addr) error {
	if d.family == proxy.IPv4 {
		return nil
	}
	deadline := time.Now().Add(d.patience)
	for _, a := range addrs {
		for {
			local, err := d.local(a)
			if local {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("address %s of interface %s: packets to it are not the node's after %v (see: ip -6 route get %s): %w", a, Device, d.patience, a, err)
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

var errElsewhere = errors.New("they go elsewhere")

// local tells whether packets to an address are the node's. The error says why not; it may be that there is no route at all.
func (d *dummy) local(a netip.Addr) (bool, error) {
	routes, err := d.handle.RouteGet(a.AsSlice())
	if err != nil {
		return false, err
	}
	if len(routes) == 0 || routes[0].Type != unix.RTN_LOCAL {
		return false, errElsewhere
	}
	return true, nil
}

// Delete is part of device.
func (d *dummy) Delete(a netip.Addr) error {
	return d.change(a, "delete", d.handle.AddrDel, unix.EADDRNOTAVAIL)
}

func (d *dummy) change(a netip.Addr, verb string, do func(netlink.Link, *netlink.Addr) error, done error) error {
	l, err := d.link()
	if err != nil {
		return err
	}
	if l == nil {
		return fmt.Errorf("%s address %s: there is no interface %s: %w", verb, a, Device, unix.ENODEV)
	}
	if err := do(l, hostAddr(a)); err != nil && !errors.Is(err, done) {
		return fmt.Errorf("%s address %s of interface %s: %w", verb, a, Device, err)
	}
	return nil
}

// hostAddr is an address that is local and that the kernel does not choose as the source of anything that leaves the node: masquerading looks for an
// address on all interfaces if the outgoing one has none.
func hostAddr(a netip.Addr) *netlink.Addr {
	out := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}}
	if a.Is4() {
		out.Scope = unix.RT_SCOPE_HOST
		return out
	}
	// IPv6 has no such scope: an address that is deprecated from the start is not chosen if there is another.
	out.Flags, out.PreferedLft, out.ValidLft = unix.IFA_F_NODAD, 0, int(^uint32(0))
	return out
}

// Remove is part of device.
func (d *dummy) Remove() error {
	l, err := d.link()
	if l == nil || err != nil {
		return err
	}
	addrs, err := listAddrs(func() ([]netlink.Addr, error) { return d.handle.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list the addresses of interface %s: %w", Device, err)
	}
	if len(addrs) > 0 {
		return nil // the other family's
	}
	if err := d.handle.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete interface %s: %w", Device, err)
	}
	return nil
}

// Close is part of device.
func (d *dummy) Close() error {
	d.handle.Close()
	return nil
}
