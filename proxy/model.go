package proxy

import (
	"cmp"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Family is an IP family. Every State and every Backend belongs to one.
type Family uint8

// The two families. Their values are the IP version numbers.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Families lists both, in the order in which they are processed.
var Families = [...]Family{IPv4, IPv6}

// String returns "IPv4" or "IPv6", as the API and kube-proxy's metric label ip_family spell it.
func (f Family) String() string {
	if f == IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

// Bits is the length of an address of the family.
func (f Family) Bits() int {
	if f == IPv6 {
		return 128
	}
	return 32
}

// FamilyOf returns the family of an address; IPv4-mapped IPv6 addresses count as IPv4.
func FamilyOf(a netip.Addr) Family {
	if a.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

// Protocol is an IANA protocol number; only TCP, UDP and SCTP are load-balanced.
type Protocol uint8

// The protocols that a Service port may have.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String returns the API's spelling, "TCP", "UDP" or "SCTP".
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return "protocol " + strconv.Itoa(int(p))
}

// ServiceName names a Service object.
type ServiceName struct {
	Namespace, Name string
}

// String returns "namespace/name".
func (n ServiceName) String() string { return n.Namespace + "/" + n.Name }

// Compare orders names by namespace, then name.
func (n ServiceName) Compare(o ServiceName) int {
	if c := strings.Compare(n.Namespace, o.Namespace); c != 0 {
		return c
	}
	return strings.Compare(n.Name, o.Name)
}

// ServicePortName is the identity of one load-balanced port of a Service. Ports of one Service may share a name
// only if their protocols differ.
type ServicePortName struct {
	ServiceName
	Port     string // the port's name in the Service, "" if it has none
	Protocol Protocol
}

// String returns "namespace/name:port/TCP", without ":port" if the port is unnamed.
func (n ServicePortName) String() string {
	s := n.ServiceName.String()
	if n.Port != "" {
		s += ":" + n.Port
	}
	return s + "/" + n.Protocol.String()
}

// Compare orders names by Service, then port name, then protocol.
func (n ServicePortName) Compare(o ServicePortName) int {
	// One after the other, since this sorts tens of thousands of names at a full sync.
	if c := n.ServiceName.Compare(o.ServiceName); c != 0 {
		return c
	}
	if c := strings.Compare(n.Port, o.Port); c != 0 {
		return c
	}
	return cmp.Compare(n.Protocol, o.Protocol)
}

// Origin is where the first packet of a connection came from, as far as traffic policies care.
type Origin uint8

// The origins. A packet from a pod is FromPod only if State.LocalPods can recognise it; FromNode means that the source is
// one of the node's own addresses.
const (
	FromPod Origin = iota
	FromNode
	FromElsewhere
)

func (o Origin) String() string { return [...]string{"pod", "node", "elsewhere"}[o] }

// Verdict is what happens to the first packet of a connection.
type Verdict uint8

// Forward sends it to an endpoint; Reject answers with an error; Drop is silent.
const (
	Forward Verdict = iota
	Reject
	Drop
)

func (v Verdict) String() string { return [...]string{"forward", "reject", "drop"}[v] }

// Pool names one of the two sets of endpoints of a Service port.
type Pool uint8

// Cluster is the pool of traffic policy Cluster, Local that of policy Local.
const (
	Cluster Pool = iota
	Local
)

func (p Pool) String() string { return [...]string{"cluster", "local"}[p] }

// Action says what happens to a connection of one Origin. Pool and Masquerade have a meaning with Forward only and are
// zero otherwise.
type Action struct {
	Verdict    Verdict
	Pool       Pool
	Masquerade bool // replace the source by the address of the outgoing interface
}

func (a Action) String() string {
	if a.Verdict != Forward {
		return a.Verdict.String()
	}
	if a.Masquerade {
		return a.Pool.String() + "+masquerade"
	}
	return a.Pool.String()
}

// Kind is the kind of a Frontend.
type Kind uint8

// The kinds of a Frontend.
const (
	ClusterIP Kind = iota
	NodePort
	ExternalIP
	LoadBalancerIP
)

func (k Kind) String() string {
	return [...]string{"ClusterIP", "NodePort", "ExternalIP", "LoadBalancerIP"}[k]
}

// Frontend is one address and port that clients send to. Its protocol is that of its Service.
type Frontend struct {
	Kind Kind
	// Addr is the address that clients send to. It is invalid for a NodePort, whose addresses are State.Node.NodePorts.
	Addr netip.Addr
	Port uint16
	// AllowedSources restricts who may connect: everybody if nil, else only sources within these prefixes; all others are
	// dropped, even if there is no endpoint. Sorted; no prefix contains another.
	AllowedSources []netip.Prefix
	// Actions has one Action for each Origin.
	Actions [3]Action
}

// FrontendKey is what identifies a Frontend on a node: no two Services may own the same. Addr is invalid for NodePorts.
type FrontendKey struct {
	Addr     netip.Addr
	Port     uint16
	Protocol Protocol
}

// String returns "10.0.0.1:80/TCP", or "nodeport:30080/TCP".
func (k FrontendKey) String() string {
	if !k.Addr.IsValid() {
		return "nodeport:" + strconv.Itoa(int(k.Port)) + "/" + k.Protocol.String()
	}
	return netip.AddrPortFrom(k.Addr, k.Port).String() + "/" + k.Protocol.String()
}

// Compare orders keys by address, port, protocol; node ports come first.
func (k FrontendKey) Compare(o FrontendKey) int {
	return cmp.Or(k.Addr.Compare(o.Addr), cmp.Compare(k.Port, o.Port), cmp.Compare(k.Protocol, o.Protocol))
}

// Endpoint is one address and port that connections are forwarded to.
type Endpoint struct {
	Addr  netip.AddrPort
	Local bool // on this node
}

// Service is one load-balanced port of a Service object in one family, with every traffic policy already decided. It is
// immutable once published; an unchanged Service keeps its pointer from one State to the next.
type Service struct {
	Name ServicePortName
	// Affinity is how long a client stays with its endpoint after its last new connection; 0 for no affinity.
	Affinity time.Duration
	// Serving are all endpoints with condition serving, whatever the policies: flows to them must live on. Sorted, unique.
	Serving []netip.AddrPort
	// Cluster and Local are the pools: final, each sorted by address, unique. A pool that no Action uses is empty.
	Cluster, Local []Endpoint
	// Frontends are sorted by Kind, then address.
	Frontends []Frontend
	// NoLocalInternal and NoLocalExternal tell that a Local traffic policy finds endpoints elsewhere but none on this node.
	NoLocalInternal, NoLocalExternal bool
}

// Key returns the key of one of the Service's frontends.
func (s *Service) Key(f *Frontend) FrontendKey {
	return FrontendKey{Addr: f.Addr, Port: f.Port, Protocol: s.Name.Protocol}
}

// Pool returns the endpoints of a pool.
func (s *Service) Pool(p Pool) []Endpoint {
	if p == Local {
		return s.Local
	}
	return s.Cluster
}
