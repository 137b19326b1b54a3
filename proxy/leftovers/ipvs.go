package leftovers

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/ipvs"
	"turnout/proxy/ipvs/genl"
	"turnout/proxy/nftables"
)

// IPVS is what a proxy in mode ipvs left outside of iptables, this one or kube-proxy.
type IPVS struct {
	link    netlink.Link // nil if there is none
	addrs   map[netip.Addr]bool
	tables  []proxy.Family    // that have a table of ours
	known   map[genl.Key]bool // what these know
	servers []genl.Key        // at addresses of the interface, or known
	// others are virtual servers at addresses of the node: NodePorts of kube-proxy's, or somebody else's.
	others []genl.Key
}

// FindIPVS looks for leftovers. Virtual servers at addresses of the interface kube-ipvs0 are a proxy's, and those that our table knows. It has no
// IPVS loaded, but nf_tables, and needs CAP_NET_ADMIN.
func FindIPVS() (*IPVS, error) {
	i := &IPVS{addrs: map[netip.Addr]bool{}, known: map[genl.Key]bool{}}
	for _, look := range []func() error{i.findDevice, i.findTables} {
		if err := look(); err != nil {
			return nil, err
		}
	}
	if i.link == nil && len(i.tables) == 0 {
		return i, nil
	}
	servers, err := virtualServers()
	if err != nil {
		return nil, err
	}
	for _, s := range servers {
		if i.addrs[s.At.Addr()] || i.known[s] {
			i.servers = append(i.servers, s)
		} else {
			i.others = append(i.others, s)
		}
	}
	return i, nil
}

func (i *IPVS) findDevice() error {
	link, err := netlink.LinkByName(ipvs.Device)
	if _, ok := errors.AsType[netlink.LinkNotFoundError](err); ok {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for interface %s: %w", ipvs.Device, err)
	}
	i.link = link
	addrs, err := listed(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list the addresses of interface %s: %w", ipvs.Device, err)
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			i.addrs[ip.Unmap()] = true
		}
	}
	return nil
}

// listed has something listed again while changes interrupt that, so that nothing is missing: a virtual server at an address that is passed over would be
// taken for somebody else's.
func listed[T any](list func() ([]T, error)) (out []T, err error) {
	for range attempts {
		if out, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return out, err
}

func (i *IPVS) findTables() error {
	for _, f := range proxy.Families {
		servers, table, err := ipvs.Record(f)
		if Lacking(err) {
			continue
		}
		if err != nil {
			return err
		}
		if table {
			i.tables = append(i.tables, f)
			maps.Copy(i.known, servers)
		}
	}
	return nil
}

// Objects lists what Remove removes.
func (i *IPVS) Objects() (out []Object) {
	for _, s := range i.servers {
		out = append(out, serverObject(s))
	}
	if i.link != nil {
		out = append(out, Object{Kind: "interface", Name: ipvs.Device})
	}
	for _, f := range i.tables {
		out = append(out, Object{Family: f, Kind: "table", Name: nftables.GateTable})
	}
	return out
}

// Kept lists the virtual servers that are not known to be a proxy's. There are none if no proxy was in mode ipvs.
func (i *IPVS) Kept() (out []Object) {
	for _, s := range i.others {
		out = append(out, serverObject(s))
	}
	return out
}

// doubtful are those of Kept that kube-proxy may have made. Where this proxy has a table, that knows all that a proxy made.
func (i *IPVS) doubtful() []Object {
	return slices.DeleteFunc(i.Kept(), func(o Object) bool { return slices.Contains(i.tables, o.Family) })
}

// Remove removes what was found. With the interface go its addresses, and with them the way to the virtual servers. The table, which knows of others, goes last.
func (i *IPVS) Remove() error {
	err := i.removeServers()
	if i.link != nil {
		if e := netlink.LinkDel(i.link); e != nil && !errors.Is(e, unix.ENODEV) {
			err = errors.Join(err, fmt.Errorf("delete interface %s: %w", ipvs.Device, e))
		}
	}
	if err != nil {
		return err
	}
	return i.removeTables()
}

func (i *IPVS) removeTables() error {
	var errs []error
	for _, f := range i.tables {
		g, err := nftables.OpenGate(f)
		if err != nil {
			return err
		}
		errs = append(errs, g.Cleanup(), g.Close())
	}
	return errors.Join(errs...)
}

func (i *IPVS) removeServers() error {
	if len(i.servers) == 0 {
		return nil
	}
	socket, err := genl.Open()
	if err != nil {
		return err
	}
	defer socket.Close()
	var errs []error
	for _, s := range i.servers {
		if err := socket.DeleteServer(s); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func serverObject(s genl.Key) Object {
	return Object{Family: s.Family(), Kind: "virtual server", Name: s.String()}
}

// virtualServers lists those of both families; none if the kernel has no IPVS loaded, which to open a socket would do.
func virtualServers() (out []genl.Key, err error) {
	if !ipvs.Loaded() {
		return nil, nil
	}
	socket, err := genl.Open()
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	for _, f := range proxy.Families {
		list, err := socket.Servers(f)
		if err != nil {
			return nil, err
		}
		for _, s := range list {
			out = append(out, s.Key)
		}
	}
	return out, nil
}
