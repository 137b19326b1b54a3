package leftovers

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/ipvs/genl"
)

// Device is the dummy interface that has the addresses of kube-proxy's virtual servers in mode ipvs.
const Device = "kube-ipvs0"

// IPVS is what kube-proxy in mode ipvs left outside of iptables.
type IPVS struct {
	link    netlink.Link // nil if there is none
	addrs   map[netip.Addr]bool
	servers []genl.Key // at addresses of the interface
	// others are virtual servers at addresses of the node: NodePorts of kube-proxy's, or somebody else's.
	others []genl.Key
}

// FindIPVS looks for leftovers. Only virtual servers at addresses of the interface kube-ipvs0 are known to be kube-proxy's. It loads no
// module, and needs CAP_NET_ADMIN.
func FindIPVS() (*IPVS, error) {
	i := &IPVS{addrs: map[netip.Addr]bool{}}
	link, err := netlink.LinkByName(Device)
	if err != nil {
		if _, ok := errors.AsType[netlink.LinkNotFoundError](err); ok {
			return i, nil
		}
		return nil, fmt.Errorf("look for interface %s: %w", Device, err)
	}
	i.link = link
	addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the addresses of interface %s: %w", Device, err)
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			i.addrs[ip.Unmap()] = true
		}
	}
	servers, err := virtualServers()
	if err != nil {
		return nil, err
	}
	for _, s := range servers {
		if i.addrs[s.At.Addr()] {
			i.servers = append(i.servers, s)
		} else {
			i.others = append(i.others, s)
		}
	}
	return i, nil
}

// Objects lists what Remove removes.
func (i *IPVS) Objects() (out []Object) {
	for _, s := range i.servers {
		out = append(out, serverObject(s))
	}
	if i.link != nil {
		out = append(out, Object{Kind: "interface", Name: Device})
	}
	return out
}

// Kept lists the virtual servers that may or may not be kube-proxy's. There are none without the interface, for then kube-proxy was not in
// mode ipvs.
func (i *IPVS) Kept() (out []Object) {
	for _, s := range i.others {
		out = append(out, serverObject(s))
	}
	return out
}

// Remove removes what was found. With the interface go its addresses, and with them the way to the virtual servers.
func (i *IPVS) Remove() error {
	err := i.removeServers()
	if i.link != nil {
		if e := netlink.LinkDel(i.link); e != nil && !errors.Is(e, unix.ENODEV) {
			err = errors.Join(err, fmt.Errorf("delete interface %s: %w", Device, e))
		}
	}
	return err
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
	if _, err := os.Stat("/proc/thread-self/net/ip_vs"); errors.Is(err, fs.ErrNotExist) {
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
