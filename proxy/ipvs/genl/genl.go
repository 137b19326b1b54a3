package genl

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// Key is what identifies a virtual server that has an address; one for a firewall mark has none.
type Key struct {
	Protocol proxy.Protocol
	At       netip.AddrPort
}

// String returns "TCP 10.96.0.1:443".
func (k Key) String() string { return k.Protocol.String() + " " + k.At.String() }

// Family is that of the address.
func (k Key) Family() proxy.Family { return proxy.FamilyOf(k.At.Addr()) }

// Compare orders keys by address, port, protocol.
func (k Key) Compare(o Key) int {
	if c := k.At.Compare(o.At); c != 0 {
		return c
	}
	return int(k.Protocol) - int(o.Protocol)
}

// Server is a virtual server without its destinations.
type Server struct {
	Key
	// Scheduler chooses a destination for each connection. The kernel loads module ip_vs_<name> for it.
	Scheduler string
	// Flags are those of the scheduler, SchedulerFlag1 to SchedulerFlag3.
	Flags uint32
	// Persistence is for how long a client stays with its destination, in whole seconds; 0 for not at all.
	Persistence time.Duration
}

// Flags of schedulers (IP_VS_SVC_F_SCHED1 to 3). What they mean depends on the scheduler: the second has sh and mh hash the source port, too.
const (
	SchedulerFlag1 = 0x08
	SchedulerFlag2 = 0x10
	SchedulerFlag3 = 0x20
	schedulerFlags = SchedulerFlag1 | SchedulerFlag2 | SchedulerFlag3
	flagPersistent = 0x01 // IP_VS_SVC_F_PERSISTENT
)

// Destination is a real server, reached by translating the destination address. With weight 0 it gets no new connections.
type Destination struct {
	At     netip.AddrPort
	Weight uint32
	// Active and Inactive count its connections: established ones, and all others. They are not written.
	Active, Inactive uint32
}

// Timeouts end connections that are silent. Zero leaves a timeout as it is.
type Timeouts struct {
	TCP, TCPFin, UDP time.Duration // whole seconds
}

// Socket is a lasting netlink socket in the network namespace in which it was opened. It is used by one goroutine.
type Socket struct {
	family uint16
	handle *nl.SocketHandle
}

// Open opens a Socket. It has the kernel load the module ip_vs if need be, which newer ones do when they are asked for the netlink family (seen with 6.1;
// 5.10 does not). The error wraps unix.ENOENT if the module is not there.
func Open() (*Socket, error) {
	f, err := netlink.GenlFamilyGet(familyName)
	if err != nil {
		return nil, fmt.Errorf("the kernel has no IPVS (load the module ip_vs on the node: modprobe ip_vs): %w", err)
	}
	s, err := nl.Subscribe(unix.NETLINK_GENERIC)
	if err != nil {
		return nil, fmt.Errorf("open a generic netlink socket: %w", err)
	}
	if err := errors.Join(s.SetSendTimeout(&answerTime), s.SetReceiveTimeout(&answerTime)); err != nil {
		s.Close()
		return nil, fmt.Errorf("set up a generic netlink socket: %w", err)
	}
	return &Socket{family: f.ID, handle: &nl.SocketHandle{Socket: s}}, nil
}

// answerTime is how long to wait for an answer that the kernel owes. Loading a scheduler's module is part of it.
var answerTime = unix.Timeval{Sec: 10}

// Close closes the socket.
func (s *Socket) Close() error {
	s.handle.Close()
	return nil
}

func (s *Socket) request(command uint8, flags int) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(int(s.family), flags)
	r.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_GENERIC: s.handle}
	r.AddData(&nl.Genlmsg{Command: command, Version: version})
	return r
}

// dump calls fn for each message of the answer to a request.
func dump(r *nl.NetlinkRequest, fn func(attributes []byte) error) error {
	messages, err := r.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return err
	}
	for _, m := range messages {
		if len(m) < nl.SizeofGenlmsg {
			continue
		}
		if err := fn(m[nl.SizeofGenlmsg:]); err != nil {
			return err
		}
	}
	return nil
}

func (s *Socket) do(command uint8, attributes ...nl.NetlinkRequestData) error {
	r := s.request(command, unix.NLM_F_ACK)
	for _, a := range attributes {
		r.AddData(a)
	}
	_, err := r.Execute(unix.NETLINK_GENERIC, 0)
	return err
}

// Servers lists the virtual servers of TCP, UDP and SCTP of a family. Those for firewall marks are left out.
func (s *Socket) Servers(f proxy.Family) (out []Server, err error) {
	err = dump(s.request(commandGetService, unix.NLM_F_DUMP), func(b []byte) error {
		if x, ok := parseServer(b); ok && x.Family() == f {
			out = append(out, x)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list virtual servers: %w", err)
	}
	return out, nil
}

// AddServer makes a virtual server. The error wraps unix.EEXIST if there is one, and unix.ENOENT if there is no such scheduler.
func (s *Socket) AddServer(x Server) error {
	if err := s.do(commandNewService, encodeServer(x)); err != nil {
		return fmt.Errorf("add virtual server %s: %w", x.Key, err)
	}
	return nil
}

// SetServer changes a virtual server. Its connections and destinations stay.
func (s *Socket) SetServer(x Server) error {
	if err := s.do(commandSetService, encodeServer(x)); err != nil {
		return fmt.Errorf("change virtual server %s: %w", x.Key, err)
	}
	return nil
}

// DeleteServer deletes a virtual server with its destinations. The error wraps unix.ESRCH if there is none.
func (s *Socket) DeleteServer(k Key) error {
	if err := s.do(commandDelService, encodeKey(k)); err != nil {
		return fmt.Errorf("delete virtual server %s: %w", k, err)
	}
	return nil
}

// Destinations lists the destinations of a virtual server; none if there is no such server.
func (s *Socket) Destinations(k Key) (out []Destination, err error) {
	r := s.request(commandGetDest, unix.NLM_F_DUMP)
	r.AddData(encodeKey(k))
	err = dump(r, func(b []byte) error {
		if d, ok := parseDestination(b, k.Family()); ok {
			out = append(out, d)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the destinations of virtual server %s: %w", k, err)
	}
	return out, nil
}

// AddDestination adds a destination. The error wraps unix.EEXIST if there is one, and unix.ESRCH if there is no such server.
func (s *Socket) AddDestination(k Key, d Destination) error {
	if err := s.do(commandNewDest, encodeKey(k), encodeDestination(d)); err != nil {
		return fmt.Errorf("add destination %s to virtual server %s: %w", d.At, k, err)
	}
	return nil
}

// SetDestination changes the weight of a destination. Its connections stay.
func (s *Socket) SetDestination(k Key, d Destination) error {
	if err := s.do(commandSetDest, encodeKey(k), encodeDestination(d)); err != nil {
		return fmt.Errorf("change destination %s of virtual server %s: %w", d.At, k, err)
	}
	return nil
}

// DeleteDestination deletes a destination. The error wraps unix.ENOENT if there is none.
func (s *Socket) DeleteDestination(k Key, at netip.AddrPort) error {
	if err := s.do(commandDelDest, encodeKey(k), encodeDestination(Destination{At: at})); err != nil {
		return fmt.Errorf("delete destination %s of virtual server %s: %w", at, k, err)
	}
	return nil
}

// SetTimeouts sets the timeouts of the namespace, those that are not 0.
func (s *Socket) SetTimeouts(t Timeouts) error {
	if t == (Timeouts{}) {
		return nil
	}
	var attributes []nl.NetlinkRequestData
	for typ, d := range map[int]time.Duration{attrTimeoutTCP: t.TCP, attrTimeoutTCPFin: t.TCPFin, attrTimeoutUDP: t.UDP} {
		if d > 0 {
			attributes = append(attributes, nl.NewRtAttr(typ, nl.Uint32Attr(uint32(d/time.Second))))
		}
	}
	if err := s.do(commandSetConfig, attributes...); err != nil {
		return fmt.Errorf("set the timeouts of IPVS: %w", err)
	}
	return nil
}

// Timeouts reads the timeouts of the namespace.
func (s *Socket) Timeouts() (t Timeouts, err error) {
	err = dump(s.request(commandGetConfig, 0), func(b []byte) error {
		a, err := nl.ParseRouteAttrAsMap(b)
		if err != nil {
			return err
		}
		seconds := func(typ uint16) time.Duration { return time.Duration(number32(a[typ].Value)) * time.Second }
		t = Timeouts{TCP: seconds(attrTimeoutTCP), TCPFin: seconds(attrTimeoutTCPFin), UDP: seconds(attrTimeoutUDP)}
		return nil
	})
	if err != nil {
		return t, fmt.Errorf("read the timeouts of IPVS: %w", err)
	}
	return t, nil
}
