package leftovers

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// Device is the dummy interface that has the addresses of kube-proxy's virtual servers in mode ipvs.
const Device = "kube-ipvs0"

// IPVS is what kube-proxy in mode ipvs left outside of iptables.
type IPVS struct {
	link    netlink.Link // nil if there is none
	addrs   map[netip.Addr]bool
	servers []virtualServer // at addresses of the interface
	// others are virtual servers at addresses of the node: NodePorts of kube-proxy's, or somebody else's.
	others []virtualServer
}

// A virtualServer is an address and port that IPVS balances.
type virtualServer struct {
	family   proxy.Family
	protocol uint16
	at       netip.AddrPort
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
		return nil, fmt.Errorf("list the virtual servers: %w", err)
	}
	for _, s := range servers {
		if i.addrs[s.at.Addr()] {
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
		out = append(out, s.object())
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
		out = append(out, s.object())
	}
	return out
}

// Remove removes what was found. With the interface go its addresses, and with them the way to the virtual servers.
func (i *IPVS) Remove() error {
	var errs []error
	for _, s := range i.servers {
		if err := s.remove(); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove %s: %w", s.object(), err))
		}
	}
	if i.link != nil {
		if err := netlink.LinkDel(i.link); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("delete interface %s: %w", Device, err))
		}
	}
	return errors.Join(errs...)
}

func (s virtualServer) object() Object {
	protocol := fmt.Sprint(s.protocol)
	for _, p := range []proxy.Protocol{proxy.TCP, proxy.UDP, proxy.SCTP} {
		if uint16(p) == s.protocol {
			protocol = p.String()
		}
	}
	return Object{Family: s.family, Kind: "virtual server", Name: protocol + " " + s.at.String()}
}

// What is used of the netlink family of IPVS (include/uapi/linux/ip_vs.h).
const (
	ipvsFamily, ipvsVersion              = "IPVS", 1
	commandDelService, commandGetService = 3, 4
	attrService                          = 1
	attrAF, attrProtocol, attrAddr       = 1, 2, 3
	attrPort, attrFwmark                 = 4, 5
)

// ipvsRequest prepares a request; nil if the kernel has no IPVS loaded. Asking for the netlink family alone would load it.
func ipvsRequest(command uint8, flags int) (*nl.NetlinkRequest, error) {
	if _, err := os.Stat("/proc/thread-self/net/ip_vs"); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	f, err := netlink.GenlFamilyGet(ipvsFamily)
	if err != nil {
		return nil, fmt.Errorf("look for the netlink family %s: %w", ipvsFamily, err)
	}
	r := nl.NewNetlinkRequest(int(f.ID), flags)
	r.AddData(&nl.Genlmsg{Command: command, Version: ipvsVersion})
	return r, nil
}

func virtualServers() (out []virtualServer, err error) {
	r, err := ipvsRequest(commandGetService, unix.NLM_F_DUMP)
	if r == nil || err != nil {
		return nil, err
	}
	messages, err := r.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		if len(m) < nl.SizeofGenlmsg {
			continue
		}
		if s, ok := parseVirtualServer(m[nl.SizeofGenlmsg:]); ok {
			out = append(out, s)
		}
	}
	return out, nil
}

// parseVirtualServer reads one; false if it is one for a firewall mark, which has no address.
func parseVirtualServer(b []byte) (s virtualServer, ok bool) {
	outer, err := nl.ParseRouteAttrAsMap(b)
	if err != nil {
		return s, false
	}
	a, err := nl.ParseRouteAttrAsMap(outer[attrService].Value)
	if err != nil || len(a[attrAF].Value) != 2 || len(a[attrProtocol].Value) != 2 || len(a[attrAddr].Value) < 16 || len(a[attrPort].Value) != 2 {
		return s, false
	}
	s = virtualServer{family: proxy.IPv4, protocol: binary.NativeEndian.Uint16(a[attrProtocol].Value)}
	ip := a[attrAddr].Value[:4]
	if binary.NativeEndian.Uint16(a[attrAF].Value) == unix.AF_INET6 {
		s.family, ip = proxy.IPv6, a[attrAddr].Value[:16]
	}
	addr, _ := netip.AddrFromSlice(slices.Clone(ip))
	s.at = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(a[attrPort].Value))
	return s, true
}

func (s virtualServer) remove() error {
	r, err := ipvsRequest(commandDelService, unix.NLM_F_ACK)
	if r == nil || err != nil {
		return err
	}
	r.AddData(s.encode())
	_, err = r.Execute(unix.NETLINK_GENERIC, 0)
	return err
}

// encode is what names the virtual server in a request.
func (s virtualServer) encode() *nl.RtAttr {
	af := uint16(unix.AF_INET)
	if s.family == proxy.IPv6 {
		af = unix.AF_INET6
	}
	addr := make([]byte, 16)
	copy(addr, s.at.Addr().AsSlice())
	service := nl.NewRtAttr(attrService|unix.NLA_F_NESTED, nil)
	service.AddRtAttr(attrAF, nl.Uint16Attr(af))
	service.AddRtAttr(attrProtocol, nl.Uint16Attr(s.protocol))
	service.AddRtAttr(attrAddr, addr)
	service.AddRtAttr(attrPort, binary.BigEndian.AppendUint16(nil, s.at.Port()))
	return service
}
