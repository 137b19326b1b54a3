package nftables

import (
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// elements writes the elements of one set in as few messages as possible.
func (e *encoder) elements(typ uint16, list []element) {
	for len(list) > 0 {
		list = list[e.elementMessage(typ, list):]
	}
}

// elementMessage writes the first elements of the list as one message and returns how many.
func (e *encoder) elementMessage(typ uint16, list []element) int {
	first := &list[0]
	flags, verb := uint16(0), "delete elements of"
	if typ == unix.NFT_MSG_NEWSETELEM {
		flags, verb = unix.NLM_F_CREATE, "add elements to"
	}
	e.begin(typ, flags, verb, first.set.name)
	e.str(unix.NFTA_SET_ELEM_LIST_TABLE, e.tableName())
	e.str(unix.NFTA_SET_ELEM_LIST_SET, first.set.name)
	at, n := e.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS), 0
	for n < len(list) && len(e.buf)-at < listLimit {
		x := &list[n]
		if e.apart && x.owner != first.owner {
			break
		}
		e.element(x, typ == unix.NFT_MSG_NEWSETELEM)
		n++
	}
	e.end(at)
	e.finish()
	m := &e.messages[len(e.messages)-1]
	m.list, m.elements = at, list[:n]
	return n
}

func (e *encoder) element(x *element, add bool) {
	item := e.nest(unix.NFTA_LIST_ELEM)
	more := x.detail()
	if more.last {
		e.u32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	e.data(unix.NFTA_SET_ELEM_KEY, x.key)
	if more.keyEnd != nil {
		e.data(nftaSetElemKeyEnd, more.keyEnd)
	}
	if add && x.set.verdicts() {
		e.verdictData(more.chain)
	} else if add && x.set.isMap() {
		e.data(unix.NFTA_SET_ELEM_DATA, x.value)
	}
	if add && more.timeout > 0 {
		e.u64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(more.timeout.Milliseconds()))
		e.u64(unix.NFTA_SET_ELEM_EXPIRATION, uint64(more.expires.Milliseconds()))
	}
	if add && x.named {
		e.bytes(unix.NFTA_SET_ELEM_USERDATA, userdata.AppendString(nil, userdata.NFTNL_UDATA_SET_ELEM_COMMENT, comment(e.owners[x.owner])))
	}
	e.end(item)
}

func (e *encoder) data(typ uint16, value []byte) {
	d := e.nest(typ)
	e.bytes(unix.NFTA_DATA_VALUE, value)
	e.end(d)
}

func (e *encoder) verdictData(chain string) {
	d := e.nest(unix.NFTA_SET_ELEM_DATA)
	v := e.nest(unix.NFTA_DATA_VERDICT)
	e.u32(unix.NFTA_VERDICT_CODE, uint32(1<<32+unix.NFT_GOTO))
	e.str(unix.NFTA_VERDICT_CHAIN, chain)
	e.end(v)
	e.end(d)
}
