package ipvs

import (
	"net/netip"

	"turnout/proxy"
	"turnout/proxy/ipvs/genl"
	"turnout/proxy/nftables"
)

// kernel is what a Backend speaks to.
type kernel struct {
	servers servers
	device  device
	gate    gate
}

// servers are the virtual servers of the network namespace, as genl.Socket has them.
type servers interface {
	Servers(f proxy.Family) ([]genl.Server, error)
	AddServer(genl.Server) error
	SetServer(genl.Server) error
	DeleteServer(genl.Key) error
	Destinations(genl.Key) ([]genl.Destination, error)
	AddDestination(genl.Key, genl.Destination) error
	SetDestination(genl.Key, genl.Destination) error
	DeleteDestination(genl.Key, netip.AddrPort) error
	SetTimeouts(genl.Timeouts) error
	Close() error
}

// device is the interface that has the addresses of Services, so that packets to them are the node's.
type device interface {
	// Addresses returns the addresses of the family on the interface, and those on all others. Without the interface the first is nil.
	Addresses() (ours, others map[netip.Addr]bool, err error)
	// Probe finds out whether there can be the interface.
	Probe() error
	// Make makes the interface, unless it is there.
	Make() error
	Add(netip.Addr) error
	// Await returns when packets to addresses that were added are the node's.
	Await(...netip.Addr) error
	Delete(netip.Addr) error
	// Remove removes the interface if it has no address of any family left.
	Remove() error
	Close() error
}

// gate is the table that decides on everything but the endpoint, as nftables.Gate keeps it.
type gate interface {
	PortID() uint32
	Probe() error
	Admit(s *proxy.State, own func(netip.Addr) bool) (operations int, rejected []proxy.Rejection, err error)
	Retire() (operations int, err error)
	Forget()
	Record() (frontends []proxy.FrontendKey, addrs []netip.Addr, err error)
	Intact() (bool, error)
	Disarm() error
	Cleanup() error
	Close() error
}

var (
	_ servers = (*genl.Socket)(nil)
	_ gate    = (*nftables.Gate)(nil)
)
