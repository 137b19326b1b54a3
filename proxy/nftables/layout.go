package nftables

import (
	"strconv"
	"time"

	lib "github.com/google/nftables"
	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// TableName is the name of the table in either family. Other components, Calico's Felix among them, look for chains in a
// table of this name to find out that nftables mode is in use.
const TableName = "kube-proxy"

// layoutComment marks a table as ours and of this layout; a table with another comment is replaced as a whole. The number
// must change whenever a set, the meaning of an element's value or a base chain does.
const layoutComment = "turnout layout 1"

// The value that a frontend leads to travels in the packet's priority from one rule to the next: 12 bits of class, one bit that
// selects the local pool, 19 bits of service number.
const (
	classShift = 20
	classBits  = 0xfff << classShift
	localBit   = 1 << 19
	numberBits = localBit - 1
	poolBits   = localBit | numberBits

	maxClass  = 1<<12 - 1
	maxNumber = numberBits
)

// A datatype is the type of one field of a key or a value.
type datatype uint8

const (
	typeAddr    datatype = iota // ipv4_addr or ipv6_addr, by family
	typeProto                   // inet_proto
	typePort                    // inet_service
	typeClass                   // classid, which is how nft shows a packet priority
	typeSlot                    // numgen random, a number in host byte order
	typeVerdict                 // only as a value
)

// A set is a named set or, if it has a value, a map of the table.
type set struct {
	name     string
	comment  string
	key      []datatype
	value    []datatype
	interval bool          // keys are ranges
	timeout  time.Duration // entries are made by rules and end after this
	size     uint32        // capacity; 0 if the kernel should grow it as needed
	// typeof makes nft show keys and values by what they were read from; needed where no plain type fits.
	typeof func(proxy.Family) (key, value []operand)
}

func (s *set) isMap() bool { return len(s.value) > 0 }

func (s *set) verdicts() bool { return s.isMap() && s.value[0] == typeVerdict }

// sets are the table's fixed sets and maps. Their names are not those of upstream's table, whose sets have other types:
// upstream kube-proxy would fail to take over if it found them.
type sets struct {
	frontends, nodeports, dispatch, endpoints, affinity      *set
	clusterIPs, hairpin, nodePortIPs, serviceCIDRs, podCIDRs *set
	allowed, memorable                                       *set
}

// affinityDefault ends an entry of the affinity map if the rule that made it gave no time of its own; all ours do.
const affinityDefault = 3 * time.Hour

// affinitySize bounds the memory that clients can make the node use: about 100 bytes an entry. Clients beyond it are balanced
// without affinity.
const affinitySize = 262144

func newSets(c capacity) *sets {
	tuple := []datatype{typeAddr, typeProto, typePort}
	return &sets{
		frontends:    &set{name: "frontends", comment: "class and number of each ClusterIP, external and load-balancer IP", key: tuple, value: []datatype{typeClass}, size: c.frontends},
		nodeports:    &set{name: "nodeports", comment: "class and number of each NodePort", key: tuple[1:], value: []datatype{typeClass}, size: c.nodeports},
		dispatch:     &set{name: "dispatch", comment: "what is done with each class", key: []datatype{typeClass}, value: []datatype{typeVerdict}},
		endpoints:    &set{name: "endpoints", comment: "endpoints of each service number, by slot", key: []datatype{typeClass, typeSlot}, value: []datatype{typeAddr, typePort}, size: c.endpoints, typeof: typeofEndpoints},
		affinity:     &set{name: "affinity", comment: "clients with session affinity", key: []datatype{typeClass, typeAddr}, value: []datatype{typeAddr, typePort}, size: affinitySize, timeout: affinityDefault, typeof: typeofAffinity},
		clusterIPs:   &set{name: "known-cluster-ips", comment: "ClusterIPs: undefined ports are rejected", key: tuple[:1], size: c.clusterIPs},
		hairpin:      &set{name: "hairpin", comment: "endpoints on this node, which may reach themselves", key: []datatype{typeAddr, typeAddr}},
		nodePortIPs:  &set{name: "node-ips", comment: "addresses that serve NodePorts", key: tuple[:1]},
		serviceCIDRs: &set{name: "service-cidrs", comment: "unallocated ClusterIPs are dropped", key: tuple[:1], interval: true},
		podCIDRs:     &set{name: "pod-cidrs", comment: "sources that are pods", key: tuple[:1], interval: true},
		allowed:      &set{name: "allowed-sources", comment: "loadBalancerSourceRanges", key: []datatype{typeAddr, typeProto, typePort, typeAddr}, interval: true},
		memorable:    &set{name: "sticky-endpoints", comment: "pools of services with session affinity", key: []datatype{typeClass, typeAddr, typePort}},
	}
}

// differingIn lists the sets that have another capacity than in c.
func (s *sets) differingIn(c capacity) (out []*set) {
	for i, other := range newSets(c).all() {
		if x := s.all()[i]; x.size != other.size {
			out = append(out, x)
		}
	}
	return out
}

// all lists the fixed sets in the order in which they are made: those of ranges come first.
func (s *sets) all() []*set {
	return []*set{s.serviceCIDRs, s.podCIDRs, s.allowed, s.frontends, s.nodeports, s.dispatch, s.endpoints, s.affinity, s.clusterIPs, s.hairpin,
		s.nodePortIPs, s.memorable}
}

// sticky returns the two maps through which clients of Services with this affinity timeout are remembered.
func stickySets(timeout time.Duration) (frontends, nodeports *set) {
	seconds := strconv.Itoa(int(timeout / time.Second))
	tuple := []datatype{typeAddr, typeProto, typePort}
	return &set{name: "sticky-" + seconds, comment: "frontends with session affinity", key: tuple, value: []datatype{typeClass}},
		&set{name: "sticky-nodeports-" + seconds, comment: "NodePorts with session affinity", key: tuple[1:], value: []datatype{typeClass}}
}

// capacity is how many elements the big maps may hold. A map of known size is a plain hash table in the kernel, twice as fast
// to fill as one that grows (measured); a map that becomes too small is made anew with the next refill.
type capacity struct {
	frontends, nodeports, endpoints, clusterIPs uint32
}

// minCapacity fits small clusters: 64 KiB of buckets a map.
const minCapacity = 4096

// capacityFor leaves room to double before a map must be made anew.
func capacityFor(need capacity) capacity {
	room := func(n uint32) uint32 {
		size := uint32(minCapacity)
		for size < 2*n {
			size *= 2
		}
		return size
	}
	return capacity{room(need.frontends), room(need.nodeports), room(need.endpoints), room(need.clusterIPs)}
}

func (c capacity) fits(need capacity) bool {
	return need.frontends <= c.frontends && need.nodeports <= c.nodeports && need.endpoints <= c.endpoints && need.clusterIPs <= c.clusterIPs
}

// width is the length of a field in bytes as nft declares it, before padding to registers of 4 bytes.
func (t datatype) width(f proxy.Family) int {
	switch t {
	case typeAddr:
		return f.Bits() / 8
	case typeProto:
		return 1
	case typePort:
		return 2
	default:
		return 4
	}
}

// nft returns the library's name for the type.
func (t datatype) nft(f proxy.Family) lib.SetDatatype {
	switch t {
	case typeAddr:
		if f == proxy.IPv6 {
			return lib.TypeIP6Addr
		}
		return lib.TypeIPAddr
	case typeProto:
		return lib.TypeInetProto
	case typePort:
		return lib.TypeInetService
	case typeVerdict:
		return lib.TypeVerdict
	case typeSlot:
		return lib.TypeInteger
	default:
		return lib.TypeClassID
	}
}

func padded(n int) int { return (n + 3) &^ 3 }

// layoutWidth is the length of a key or value in registers.
func layoutWidth(f proxy.Family, fields []datatype) int {
	n := 0
	for _, t := range fields {
		n += padded(t.width(f))
	}
	return n
}

// nfproto is the family's number in netlink messages.
func nfproto(f proxy.Family) uint8 {
	if f == proxy.IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}
