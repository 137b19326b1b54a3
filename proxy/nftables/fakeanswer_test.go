package nftables

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"syscall"

	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// request answers a request: an object, or a dump.
func (s *fakeSocket) request(m received) error {
	a := m.payload[sizeofNfgenmsg:]
	t := s.kernel.tables[text(a, unix.NFTA_SET_TABLE)]
	refuse := func(errno syscall.Errno) error {
		s.queue = append(s.queue, errorMessage(m, errno, 0))
		return nil
	}
	if m.flags&unix.NLM_F_DUMP != 0 && s.dump != 0 {
		return refuse(unix.EBUSY) // a socket has one dump at a time
	}
	if m.typ&0xff == unix.NFT_MSG_GETCHAIN {
		s.dumpChains(m)
		return nil
	}
	if t == nil {
		return refuse(unix.ENOENT)
	}
	switch m.typ & 0xff {
	case unix.NFT_MSG_GETTABLE:
		s.answer(m, unix.NFT_MSG_NEWTABLE, func(to *attributes) {
			to.str(unix.NFTA_TABLE_NAME, text(a, unix.NFTA_TABLE_NAME))
			to.bytes(nftaTableUserdata, userdata.AppendString(nil, udataComment, t.comment))
		})
	case unix.NFT_MSG_GETSET:
		set := t.set(text(a, unix.NFTA_SET_NAME))
		if m.flags&unix.NLM_F_DUMP != 0 {
			s.dumpSets(m, t)
			return nil
		}
		if set == nil {
			return refuse(unix.ENOENT)
		}
		s.answer(m, unix.NFT_MSG_NEWSET, set.answer)
	case unix.NFT_MSG_GETSETELEM:
		set := t.set(text(a, unix.NFTA_SET_ELEM_LIST_SET))
		if set == nil {
			return refuse(unix.ENOENT)
		}
		s.dumpElements(m, set)
	default:
		return refuse(unix.EOPNOTSUPP)
	}
	return nil
}

func (s *fakeSet) answer(to *attributes) {
	to.str(unix.NFTA_SET_NAME, s.name)
	desc := to.nest(unix.NFTA_SET_DESC)
	if s.size > 0 {
		to.u32(unix.NFTA_SET_DESC_SIZE, s.size)
	}
	to.end(desc)
}

// answer appends a datagram with one message.
func (s *fakeSocket) answer(m received, typ uint16, build func(*attributes)) {
	b := messageHeader(unix.NFNL_SUBSYS_NFTABLES<<8|typ, 0, m.sequence)
	a := attributes{append(b, nfproto(s.kernel.family), unix.NFNETLINK_V0, 0, 0)}
	build(&a)
	s.queue = append(s.queue, finished(a.buf))
}

// messageHeader starts a netlink message; finished ends it.
func messageHeader(typ, flags uint16, sequence uint32) []byte {
	b := binary.NativeEndian.AppendUint32(nil, 0)
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, sequence)
	return binary.NativeEndian.AppendUint32(b, 0)
}

func finished(b []byte) []byte {
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	return b
}

// fakePart is how many elements fit one datagram of a dump; the real kernel's hold some hundred.
const fakePart = 20

func (s *fakeSocket) dumpElements(m received, set *fakeSet) {
	s.dump = m.sequence + 1
	for part := range slices.Chunk(set.sorted(), fakePart) {
		s.answer(m, unix.NFT_MSG_NEWSETELEM, func(to *attributes) {
			to.str(unix.NFTA_SET_ELEM_LIST_TABLE, TableName)
			to.str(unix.NFTA_SET_ELEM_LIST_SET, set.name)
			list := to.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
			for _, x := range part {
				x.answer(set, to)
			}
			to.end(list)
		})
	}
	s.done(m)
}

func (s *fakeSocket) dumpSets(m received, t *fakeTable) {
	s.dump = m.sequence + 1
	for _, set := range t.sets {
		s.answer(m, unix.NFT_MSG_NEWSET, set.answer)
	}
	s.done(m)
}

// dumpChains lists those of all tables.
func (s *fakeSocket) dumpChains(m received) {
	s.dump = m.sequence + 1
	for _, name := range slices.Sorted(maps.Keys(s.kernel.tables)) {
		for _, c := range s.kernel.tables[name].chains {
			s.answer(m, unix.NFT_MSG_NEWCHAIN, func(to *attributes) {
				to.str(unix.NFTA_CHAIN_TABLE, name)
				to.str(unix.NFTA_CHAIN_NAME, c.name)
				if c.hook != "" {
					to.bytes(unix.NFTA_CHAIN_HOOK, []byte(c.hook))
				}
			})
		}
	}
	s.done(m)
}

func (s *fakeSocket) done(m received) {
	s.queue = append(s.queue, finished(append(messageHeader(unix.NLMSG_DONE, unix.NLM_F_MULTI, m.sequence), 0, 0, 0, 0)))
}

// answer writes an element as the kernel dumps it: a timeout that is the set's own is not told.
func (e *fakeElement) answer(set *fakeSet, to *attributes) {
	item := to.nest(unix.NFTA_LIST_ELEM)
	data := func(typ, inner uint16, write func()) {
		outer := to.nest(typ)
		in := to.nest(inner)
		write()
		to.end(in)
		to.end(outer)
	}
	data(unix.NFTA_SET_ELEM_KEY, unix.NFTA_DATA_VALUE, func() { to.raw(e.key) })
	if e.chain != "" {
		data(unix.NFTA_SET_ELEM_DATA, unix.NFTA_DATA_VERDICT, func() { to.str(unix.NFTA_VERDICT_CHAIN, e.chain) })
	} else if e.value != nil {
		data(unix.NFTA_SET_ELEM_DATA, unix.NFTA_DATA_VALUE, func() { to.raw(e.value) })
	}
	if e.timeout != 0 && e.timeout != set.timeout {
		to.u64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(e.timeout.Milliseconds()))
	}
	if e.left != 0 {
		to.u64(unix.NFTA_SET_ELEM_EXPIRATION, uint64(e.left.Milliseconds()))
	}
	if e.comment != "" {
		to.bytes(unix.NFTA_SET_ELEM_USERDATA, userdata.AppendString(nil, userdata.NFTNL_UDATA_SET_ELEM_COMMENT, e.comment))
	}
	to.end(item)
}

// sorted lists the elements as a rendered set has them: the end of a range comes before a range that starts there.
func (s *fakeSet) sorted() []*fakeElement {
	out := make([]*fakeElement, 0, len(s.elements))
	for _, e := range s.elements {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b *fakeElement) int {
		return cmp.Or(strings.Compare(string(a.key), string(b.key)), boolCompare(a.last, b.last), strings.Compare(string(a.end), string(b.end)))
	})
	return out
}

// boolCompare orders true before false.
func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// errorMessage is the kernel's NLMSG_ERROR for a message.
func errorMessage(m received, errno syscall.Errno, offset int) []byte {
	const capped, extAck = 0x100, 0x200
	b := messageHeader(unix.NLMSG_ERROR, capped|extAck, m.sequence)
	b = binary.NativeEndian.AppendUint32(b, uint32(-int32(errno)))
	b = append(b, make([]byte, unix.SizeofNlMsghdr)...)
	if offset > 0 {
		b = binary.NativeEndian.AppendUint16(b, 8)
		b = binary.NativeEndian.AppendUint16(b, 2) // NLMSGERR_ATTR_OFFS
		b = binary.NativeEndian.AppendUint32(b, uint32(offset))
	}
	return finished(b)
}

// attribute returns the first attribute of a type, nil if there is none.
func attribute(b []byte, want uint16) (out []byte) {
	_ = eachAttribute(b, func(typ uint16, data []byte) error {
		if typ == want && out == nil {
			out = data
		}
		return nil
	})
	return out
}

func text(b []byte, typ uint16) string { return strings.TrimRight(string(attribute(b, typ)), "\x00") }

func number(b []byte, typ uint16) uint32 {
	if v := attribute(b, typ); len(v) == 4 {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}
