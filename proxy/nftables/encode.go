package nftables

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	lib "github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// listLimit is how long a list of elements in one message grows: the length of an attribute has 16 bits, and the last element
// may be some 300 bytes long.
const listLimit = 65000

// An encoder writes a transaction as netlink messages. It is used again from one to the next, for its buffers.
type encoder struct {
	attributes
	name     string // of the table, if it is not TableName
	family   proxy.Family
	flags    uint32 // of the table: owner, persist
	messages []message
	owners   []proxy.ServicePortName // of the transaction
	// apart puts each owner's elements into messages of their own, so that the kernel's answer names the owner.
	apart bool
}

// A message is what the encoder remembers of a message that it wrote, to explain the kernel's answer. Its sequence number is
// its index.
type message struct {
	verb     string    // such as "add rule to chain"
	name     string    // of the object
	at       int       // in the buffer
	list     int       // of the list of elements, in the buffer
	elements []element // nil if it has none
}

// Numbers of attributes and flags that package unix lacks (include/uapi/linux/netfilter/nf_tables.h).
const (
	nftaTableUserdata = 6
	nftaChainUserdata = 12
	nftaSetDescConcat = 2
	nftaSetFieldLen   = 1
	nftaSetElemKeyEnd = 10
	nftSetConcat      = 0x80
	nfAccept          = 1
	udataComment      = 0 // NFTNL_UDATA_TABLE_COMMENT and _CHAIN_COMMENT
)

func (e *encoder) tableName() string {
	if e.name != "" {
		return e.name
	}
	return TableName
}

// encodeProbe returns a batch that does a transaction's work in a table of another name, and then deletes it.
func (e *encoder) encodeProbe(tx *transaction) ([]byte, error) {
	name := e.name
	e.name = e.tableName() + "-probe"
	defer func() { e.name = name }()
	return e.encodeThen(tx, e.deleteTable)
}

// encodeDelete returns a batch that deletes the table.
func (e *encoder) encodeDelete() []byte {
	e.buf, e.messages = e.buf[:0], e.messages[:0]
	e.control(unix.NFNL_MSG_BATCH_BEGIN)
	e.deleteTable()
	e.control(unix.NFNL_MSG_BATCH_END)
	return e.buf
}

// encodeDisarm returns a batch that deletes base chains with their rules.
func (e *encoder) encodeDisarm(chains []string) []byte {
	e.buf, e.messages = e.buf[:0], e.messages[:0]
	e.control(unix.NFNL_MSG_BATCH_BEGIN)
	for _, chain := range chains {
		e.begin(unix.NFT_MSG_DELCHAIN, 0, "delete chain", chain)
		e.str(unix.NFTA_CHAIN_TABLE, e.tableName())
		e.str(unix.NFTA_CHAIN_NAME, chain)
		e.finish()
	}
	e.control(unix.NFNL_MSG_BATCH_END)
	return e.buf
}

// encode returns the batch. It is valid until the next call.
func (e *encoder) encode(tx *transaction) ([]byte, error) {
	return e.encodeThen(tx, func() {})
}

func (e *encoder) encodeThen(tx *transaction, last func()) ([]byte, error) {
	e.buf, e.messages, e.owners = slices.Grow(e.buf[:0], tx.size()), e.messages[:0], tx.owners
	e.control(unix.NFNL_MSG_BATCH_BEGIN)
	e.table(tx.start)
	if tx.start == refill {
		e.flushRules()
	}
	for _, s := range tx.small {
		e.deleteSet(s)
	}
	for i, s := range tx.sets {
		e.set(s, uint32(i+1))
	}
	if tx.start != replace {
		e.flush(tx.sets)
	}
	for i := range tx.chains {
		e.chain(&tx.chains[i])
	}
	for i := range tx.chains {
		for _, r := range tx.chains[i].rules {
			if err := e.rule(tx.chains[i].name, r); err != nil {
				return nil, err
			}
		}
	}
	for _, r := range tx.rules {
		if err := e.rule(r.chain, r.rule); err != nil {
			return nil, err
		}
	}
	for _, l := range tx.gone {
		e.elements(unix.NFT_MSG_DELSETELEM, l.elements)
	}
	for _, l := range tx.new {
		e.elements(unix.NFT_MSG_NEWSETELEM, l.elements)
	}
	last()
	e.control(unix.NFNL_MSG_BATCH_END)
	return e.buf, nil
}

// kept is up to how many bytes of a buffer are used again. A transaction that makes a whole table needs a hundred times as much, and is rare.
const kept = 1 << 20

// release forgets the transaction that was encoded last, once its answer was read: its elements are as large as all that is known of the Services.
func (e *encoder) release() {
	clear(e.messages)
	if e.owners = nil; cap(e.buf) > kept {
		e.buf = nil
	}
}

// header appends the headers of a message (struct nlmsghdr, struct nfgenmsg).
func (e *encoder) header(typ, flags uint16, family uint8, resource uint16, verb, name string) {
	e.messages = append(e.messages, message{verb: verb, name: name, at: len(e.buf)})
	e.buf = binary.NativeEndian.AppendUint32(e.buf, 0)
	e.buf = binary.NativeEndian.AppendUint16(e.buf, typ)
	e.buf = binary.NativeEndian.AppendUint16(e.buf, unix.NLM_F_REQUEST|flags)
	e.buf = binary.NativeEndian.AppendUint32(e.buf, uint32(len(e.messages)-1))
	e.buf = append(e.buf, 0, 0, 0, 0, family, unix.NFNETLINK_V0)
	e.buf = binary.BigEndian.AppendUint16(e.buf, resource)
}

func (e *encoder) begin(typ, flags uint16, verb, name string) {
	e.header(unix.NFNL_SUBSYS_NFTABLES<<8|typ, flags, nfproto(e.family), 0, verb, name)
}

func (e *encoder) finish() {
	at := e.messages[len(e.messages)-1].at
	binary.NativeEndian.PutUint32(e.buf[at:], uint32(len(e.buf)-at))
}

func (e *encoder) control(typ uint16) {
	e.header(typ, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, "batch", "")
	e.finish()
}

func (e *encoder) table(s start) {
	if s == replace {
		// What is deleted must exist. Without flags this changes nothing of a table that does: the flags of one that a process with
		// protection left are not to be changed, only to be deleted with it.
		e.begin(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, "add table", "")
		e.str(unix.NFTA_TABLE_NAME, e.tableName())
		e.finish()
		e.deleteTable()
	}
	e.addTable()
}

func (e *encoder) deleteTable() {
	e.begin(unix.NFT_MSG_DELTABLE, 0, "delete table", "")
	e.str(unix.NFTA_TABLE_NAME, e.tableName())
	e.finish()
}

func (e *encoder) addTable() {
	e.begin(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, "add table", "")
	e.str(unix.NFTA_TABLE_NAME, e.tableName())
	e.u32(unix.NFTA_TABLE_FLAGS, e.flags)
	e.bytes(nftaTableUserdata, userdata.AppendString(nil, udataComment, layoutComment))
	e.finish()
}

func (e *encoder) flushRules() {
	e.begin(unix.NFT_MSG_DELRULE, 0, "flush rules", "")
	e.str(unix.NFTA_RULE_TABLE, e.tableName())
	e.finish()
}

// flush empties sets, but for the memory of clients with session affinity. That a set is made does not mean that it is empty: it may
// have been left by an earlier process.
func (e *encoder) flush(sets []*set) {
	for _, s := range sets {
		if s.timeout > 0 {
			continue
		}
		e.begin(unix.NFT_MSG_DELSETELEM, 0, "flush set", s.name)
		e.str(unix.NFTA_SET_ELEM_LIST_TABLE, e.tableName())
		e.str(unix.NFTA_SET_ELEM_LIST_SET, s.name)
		e.finish()
	}
}

func (e *encoder) deleteSet(s *set) {
	e.begin(unix.NFT_MSG_DELSET, 0, "delete set", s.name)
	e.str(unix.NFTA_SET_TABLE, e.tableName())
	e.str(unix.NFTA_SET_NAME, s.name)
	e.finish()
}

func (e *encoder) chain(c *chain) {
	e.begin(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, "add chain", c.name)
	e.str(unix.NFTA_CHAIN_TABLE, e.tableName())
	e.str(unix.NFTA_CHAIN_NAME, c.name)
	if c.hook != nil {
		h := e.nest(unix.NFTA_CHAIN_HOOK)
		e.u32(unix.NFTA_HOOK_HOOKNUM, c.hook.number)
		e.u32(unix.NFTA_HOOK_PRIORITY, uint32(c.hook.priority))
		e.end(h)
		e.u32(unix.NFTA_CHAIN_POLICY, nfAccept)
		e.str(unix.NFTA_CHAIN_TYPE, "nat")
	}
	if c.comment != "" {
		e.bytes(nftaChainUserdata, userdata.AppendString(nil, udataComment, c.comment))
	}
	e.finish()
}

func (e *encoder) rule(chain string, r rule) error {
	e.begin(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, "add rule to chain "+chain+":", r.text)
	e.str(unix.NFTA_RULE_TABLE, e.tableName())
	e.str(unix.NFTA_RULE_CHAIN, chain)
	list := e.nest(unix.NFTA_RULE_EXPRESSIONS)
	for _, x := range r.expressions {
		item := e.nest(unix.NFTA_LIST_ELEM)
		if err := x.encode(e.family, &e.attributes); err != nil {
			return fmt.Errorf("encode rule %q of chain %s: %w", r.text, chain, err)
		}
		e.end(item)
	}
	e.end(list)
	e.finish()
	return nil
}

func (e *encoder) set(s *set, id uint32) {
	e.begin(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, "add set", s.name)
	e.str(unix.NFTA_SET_TABLE, e.tableName())
	e.str(unix.NFTA_SET_NAME, s.name)
	e.u32(unix.NFTA_SET_FLAGS, setFlags(s))
	e.u32(unix.NFTA_SET_KEY_TYPE, e.concatType(s.key))
	e.u32(unix.NFTA_SET_KEY_LEN, uint32(e.width(s.key)))
	e.u32(unix.NFTA_SET_ID, id)
	if s.verdicts() {
		e.u32(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
		e.u32(unix.NFTA_SET_DATA_LEN, 0)
	} else if s.isMap() {
		e.u32(unix.NFTA_SET_DATA_TYPE, e.concatType(s.value))
		e.u32(unix.NFTA_SET_DATA_LEN, uint32(e.width(s.value)))
	}
	if s.timeout > 0 {
		e.u64(unix.NFTA_SET_TIMEOUT, uint64(s.timeout.Milliseconds()))
	}
	e.describeSet(s)
	e.bytes(unix.NFTA_SET_USERDATA, e.setUserdata(s))
	e.finish()
}

// width is that of one field as it is, and of several in registers.
func (e *encoder) width(fields []datatype) int {
	if len(fields) == 1 {
		return fields[0].width(e.family)
	}
	return layoutWidth(e.family, fields)
}

func setFlags(s *set) (flags uint32) {
	if s.isMap() {
		flags |= unix.NFT_SET_MAP
	}
	if s.interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	if len(s.key) > 1 && s.interval {
		flags |= nftSetConcat
	}
	if s.timeout > 0 {
		flags |= unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL
	}
	return flags
}

// describeSet appends the set's capacity and, for ranges of concatenated fields, the lengths of the fields.
func (e *encoder) describeSet(s *set) {
	ranges := s.interval && len(s.key) > 1
	if s.size == 0 && !ranges {
		return
	}
	desc := e.nest(unix.NFTA_SET_DESC)
	if s.size > 0 {
		e.u32(unix.NFTA_SET_DESC_SIZE, s.size)
	}
	if ranges {
		fields := e.nest(nftaSetDescConcat)
		for _, t := range s.key {
			item := e.nest(unix.NFTA_LIST_ELEM)
			e.u32(nftaSetFieldLen, uint32(t.width(e.family)))
			e.end(item)
		}
		e.end(fields)
	}
	e.end(desc)
}

func (e *encoder) concatType(fields []datatype) uint32 {
	var magic uint32
	for _, t := range fields {
		d := t.nft(e.family)
		magic = magic<<lib.SetConcatTypeBits | d.GetNFTMagic()
	}
	return magic
}

// setUserdata tells nft how to show the set; the kernel does not look at it.
func (e *encoder) setUserdata(s *set) []byte {
	const hostOrder, networkOrder = 1, 2
	order := func(fields []datatype) uint32 {
		switch {
		case len(fields) != 1:
			return 0
		case fields[0] == typeClass:
			return hostOrder
		}
		return networkOrder
	}
	data := userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, order(s.key))
	if s.isMap() && !s.verdicts() {
		data = userdata.AppendUint32(data, userdata.NFTNL_UDATA_SET_DATABYTEORDER, order(s.value))
	}
	if s.typeof != nil {
		key, value := s.typeof(e.family)
		data = userdata.Append(data, userdata.NFTNL_UDATA_SET_KEY_TYPEOF, describeConcat(key))
		data = userdata.Append(data, userdata.NFTNL_UDATA_SET_DATA_TYPEOF, describeConcat(value))
	}
	return userdata.AppendString(data, userdata.NFTNL_UDATA_SET_COMMENT, s.comment)
}

// what says what a message does, such as "add set frontends".
func (m *message) what() string { return strings.TrimSpace(m.verb + " " + m.name) }
