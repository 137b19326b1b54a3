package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// memory is what must outlive a rebuild so that no packet is misled while the old and the new elements are both in use: a number
// or a class must not change its meaning. It also keeps the memory of clients with session affinity, which knows Services by number.
type memory struct {
	names   map[string]uint32            // the number of a Service, by comment
	numbers map[proxy.FrontendKey]uint32 // the Service number that a frontend led to
	classes map[string]uint32            // of classes that frontends led to, by name of the class's chain
	idle    map[string]uint32            // of other classes
	size    capacity
}

func newMemory(c capacity) *memory {
	return &memory{names: map[string]uint32{}, numbers: map[proxy.FrontendKey]uint32{}, classes: map[string]uint32{}, idle: map[string]uint32{}, size: c}
}

// recover reads what an earlier process left. It returns nil if there is no table, or one of another layout.
func (k *kernel) recover() (*memory, error) {
	ours, err := k.tableIsOurs()
	if err != nil || !ours {
		return nil, err
	}
	m, s, used := newMemory(capacity{}), newSets(capacity{}), map[uint32]bool{}
	if m.size, err = k.sizes(s); err != nil {
		return nil, err
	}
	for _, from := range []*set{s.frontends, s.nodeports} {
		err := k.dump(from, func(e dumped) error {
			key, ok := parseTuple(k.family, e.key, from == s.nodeports)
			if ok && len(e.value) == 4 {
				v := binary.NativeEndian.Uint32(e.value)
				m.numbers[key], m.names[e.comment], used[v>>classShift] = v&numberBits, v&numberBits, true
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return m, k.dump(s.dispatch, func(e dumped) error {
		if len(e.key) != 4 || e.chain == "" {
			return nil
		}
		v := binary.NativeEndian.Uint32(e.key) >> classShift
		if used[v] {
			m.classes[e.chain] = v
		} else {
			m.idle[e.chain] = v
		}
		return nil
	})
}

func (k *kernel) tableIsOurs() (ours bool, err error) {
	name := k.encoder.tableName()
	err = k.request(unix.NFT_MSG_GETTABLE, 0, func(a *attributes) { a.str(unix.NFTA_TABLE_NAME, name) },
		func(_ received, attributes []byte) error {
			return eachAttribute(attributes, func(typ uint16, data []byte) error {
				if typ == nftaTableUserdata {
					text, ok := userdata.GetString(data, udataComment)
					ours = ok && text == layoutComment
				}
				return nil
			})
		})
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for table %s %s: %w", k.family, name, err)
	}
	return ours, nil
}

// sizes reads the capacities of the big maps.
func (k *kernel) sizes(s *sets) (c capacity, err error) {
	for _, x := range []struct {
		set  *set
		size *uint32
	}{{s.frontends, &c.frontends}, {s.nodeports, &c.nodeports}, {s.endpoints, &c.endpoints}, {s.clusterIPs, &c.clusterIPs}} {
		err := k.request(unix.NFT_MSG_GETSET, 0, func(a *attributes) {
			a.str(unix.NFTA_SET_TABLE, TableName)
			a.str(unix.NFTA_SET_NAME, x.set.name)
		}, func(_ received, attributes []byte) error {
			return eachNested(attributes, unix.NFTA_SET_DESC, func(typ uint16, data []byte) error {
				if typ == unix.NFTA_SET_DESC_SIZE && len(data) == 4 {
					*x.size = binary.BigEndian.Uint32(data)
				}
				return nil
			})
		})
		if err != nil {
			return c, fmt.Errorf("read the size of map %s: %w", x.set.name, err)
		}
	}
	return c, nil
}

// eachNested calls fn for the attributes nested in those of one type.
func eachNested(b []byte, outer uint16, fn func(typ uint16, data []byte) error) error {
	return eachAttribute(b, func(typ uint16, data []byte) error {
		if typ != outer {
			return nil
		}
		return eachAttribute(data, fn)
	})
}

// dumped is an element as the kernel told it. Its bytes are valid during the call only.
type dumped struct {
	key, value []byte
	chain      string
	comment    string
	timeout    time.Duration // whole; 0 if it does not end
	expires    time.Duration // what is left
}

// dump calls fn for each element of a set.
func (k *kernel) dump(s *set, fn func(dumped) error) error {
	err := k.request(unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, func(a *attributes) {
		a.str(unix.NFTA_SET_ELEM_LIST_TABLE, k.encoder.tableName())
		a.str(unix.NFTA_SET_ELEM_LIST_SET, s.name)
	}, func(_ received, attributes []byte) error {
		return eachNested(attributes, unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(_ uint16, data []byte) error {
			e, err := parseElement(data)
			if err != nil {
				return err
			}
			return fn(e)
		})
	})
	if err != nil {
		return fmt.Errorf("read set %s: %w", s.name, err)
	}
	return nil
}

func parseElement(b []byte) (e dumped, err error) {
	err = eachAttribute(b, func(typ uint16, data []byte) error {
		switch typ {
		case unix.NFTA_SET_ELEM_KEY:
			return eachAttribute(data, func(_ uint16, v []byte) error { e.key = v; return nil })
		case unix.NFTA_SET_ELEM_DATA:
			return e.parseData(data)
		case unix.NFTA_SET_ELEM_TIMEOUT:
			e.timeout = milliseconds(data)
		case unix.NFTA_SET_ELEM_EXPIRATION:
			e.expires = milliseconds(data)
		case unix.NFTA_SET_ELEM_USERDATA:
			e.comment, _ = userdata.GetString(data, userdata.NFTNL_UDATA_SET_ELEM_COMMENT)
		}
		return nil
	})
	return e, err
}

func (e *dumped) parseData(b []byte) error {
	return eachAttribute(b, func(typ uint16, data []byte) error {
		if typ != unix.NFTA_DATA_VERDICT {
			e.value = data
			return nil
		}
		return eachAttribute(data, func(typ uint16, v []byte) error {
			if typ == unix.NFTA_VERDICT_CHAIN {
				e.chain = strings.TrimRight(string(v), "\x00")
			}
			return nil
		})
	})
}

func milliseconds(b []byte) time.Duration {
	if len(b) != 8 {
		return 0
	}
	return time.Duration(binary.BigEndian.Uint64(b)) * time.Millisecond
}

// parseTuple is the reverse of arena.tuple.
func parseTuple(f proxy.Family, b []byte, nodeport bool) (k proxy.FrontendKey, ok bool) {
	if n := f.Bits() / 8; !nodeport && len(b) > n {
		k.Addr, _ = netip.AddrFromSlice(b[:n])
		b = b[n:]
	}
	if len(b) < 6 || nodeport == k.Addr.IsValid() {
		return k, false
	}
	k.Protocol, k.Port = proxy.Protocol(b[0]), binary.BigEndian.Uint16(b[4:])
	return k, true
}
