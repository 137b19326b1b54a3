package nftables

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// fakeKernel behaves as nf_tables does as far as this package makes use of it: batches are carried out whole or not at all, what
// refers to nothing is refused, and all of a batch's errors are told. It holds one family.
type fakeKernel struct {
	family proxy.Family
	tables map[string]*fakeTable
	// batches counts those that were carried out, and sent all that arrived.
	batches, sent int
	// generations are our table as it was before and after each batch that was carried out.
	generations []*fakeTable
	// refuse names elements that the kernel does not accept, for a reason of its own; mute is whether it keeps quiet about which
	// element of a message it refuses.
	refuse func(set string, e *fakeElement) syscall.Errno
	mute   bool
	// refuseRule names rules that the kernel does not know how to carry out; noHooks is whether it lacks nat chains.
	refuseRule func(text string) syscall.Errno
	noHooks    bool
	made       int // tables
}

// fakeSocket is one process's socket to a fakeKernel.
type fakeSocket struct {
	kernel *fakeKernel
	port   uint32
	queue  [][]byte // datagrams that were not read yet
	dump   uint32   // sequence of the dump that is not read to its end, plus 1
	// text returns the text of the rule in a message of the batch that is being sent.
	text func(sequence uint32) string
}

type fakeTable struct {
	made    int // which of the kernel's tables it is
	comment string
	sets    []*fakeSet
	chains  []*fakeChain
}

type fakeSet struct {
	name, comment    string
	header           map[uint16]string // attributes that must stay as they are
	keyLen, valueLen int
	flags, size      uint32
	timeout          time.Duration
	elements         map[string]*fakeElement
}

type fakeElement struct {
	key, end, value []byte
	last            bool
	chain, comment  string
	timeout, left   time.Duration
}

type fakeChain struct {
	name, comment string
	hook          string // attributes of the hook
	rules         []fakeRule
}

type fakeRule struct {
	text        string
	words       []string
	expressions []byte
}

func newFakeKernel(f proxy.Family) *fakeKernel {
	return &fakeKernel{family: f, tables: map[string]*fakeTable{}}
}

// backend returns a Backend on the kernel, as a process that was just started has it.
func (k *fakeKernel) backend(o Options) *Backend {
	o.Family = k.family
	return k.backendThrough(o, func(s socket) socket { return s })
}

// backendThrough is backend with something between it and the kernel.
func (k *fakeKernel) backendThrough(o Options, wrap func(socket) socket) *Backend {
	o.Family = k.family
	s := &fakeSocket{kernel: k, port: 7}
	b := newBackend(o, wrap(s))
	b.sleep, b.kernel.wait = func(time.Duration) {}, func() {}
	s.text = b.ruleText
	return b
}

// ruleText is the text of the rule in a message of the batch that was encoded last.
func (b *Backend) ruleText(sequence uint32) string {
	_, text, _ := strings.Cut(b.kernel.encoder.messages[sequence].what(), ": ")
	return text
}

func (s *fakeSocket) portID() uint32 { return s.port }
func (s *fakeSocket) close() error   { return nil }

func (s *fakeSocket) receive(b []byte, wait bool) (int, error) {
	if len(s.queue) == 0 {
		return 0, unix.EAGAIN
	}
	n := copy(b, s.queue[0])
	if s.queue = s.queue[1:]; len(s.queue) == 0 {
		s.dump = 0
	}
	return n, nil
}

func (s *fakeSocket) send(b []byte) error {
	s.kernel.sent++
	first := binary.NativeEndian.Uint16(b[4:])
	if first == unix.NFNL_MSG_BATCH_BEGIN {
		return s.batch(b)
	}
	return eachMessage(b, s.request)
}

// batch carries out a batch on a copy, which takes the place of the table if all went well.
func (s *fakeSocket) batch(b []byte) error {
	k, before := s.kernel, s.kernel.tables
	k.tables = map[string]*fakeTable{}
	for name, t := range before {
		k.tables[name] = t.clone()
	}
	failed, ended := false, false
	err := eachMessage(b, func(m received) error {
		switch m.typ {
		case unix.NFNL_MSG_BATCH_BEGIN:
			return nil
		case unix.NFNL_MSG_BATCH_END:
			ended = true
			return nil
		}
		if errno, offset := s.message(m); errno != 0 {
			failed = true
			s.queue = append(s.queue, errorMessage(m, errno, offset))
		}
		return nil
	})
	if failed || !ended || err != nil {
		k.tables = before
		return err
	}
	k.batches++
	k.generations = append(k.generations, k.tables[TableName])
	return nil
}

// message carries out one message. The offset is that of the attribute that is refused.
func (s *fakeSocket) message(m received) (errno syscall.Errno, offset int) {
	if len(m.payload) < sizeofNfgenmsg || m.payload[0] != nfproto(s.kernel.family) {
		return unix.EAFNOSUPPORT, 0
	}
	a := m.payload[sizeofNfgenmsg:]
	switch typ := m.typ & 0xff; typ {
	case unix.NFT_MSG_NEWTABLE:
		return s.kernel.newTable(a), 0
	case unix.NFT_MSG_DELTABLE:
		name := text(a, unix.NFTA_TABLE_NAME)
		if s.kernel.tables[name] == nil {
			return unix.ENOENT, 0
		}
		delete(s.kernel.tables, name)
		return 0, 0
	default:
		t := s.kernel.tables[text(a, unix.NFTA_SET_TABLE)] // attribute 1 of every kind of object
		if t == nil {
			return unix.ENOENT, 0
		}
		switch typ {
		case unix.NFT_MSG_NEWSET:
			return t.newSet(a), 0
		case unix.NFT_MSG_DELSET:
			return t.deleteSet(a), 0
		case unix.NFT_MSG_NEWCHAIN:
			return s.kernel.newChain(t, a), 0
		case unix.NFT_MSG_DELCHAIN:
			return t.deleteChain(a), 0
		case unix.NFT_MSG_NEWRULE:
			return s.kernel.newRule(t, a, s.text(m.sequence)), 0
		case unix.NFT_MSG_DELRULE:
			return t.flushRules(a), 0
		case unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM:
			return s.kernel.changeElements(t, m, typ == unix.NFT_MSG_NEWSETELEM)
		}
	}
	return unix.EOPNOTSUPP, 0
}

func (k *fakeKernel) newTable(a []byte) syscall.Errno {
	name := text(a, unix.NFTA_TABLE_NAME)
	if k.tables[name] == nil {
		comment, _ := userdata.GetString(attribute(a, nftaTableUserdata), udataComment)
		k.made++
		k.tables[name] = &fakeTable{made: k.made, comment: comment}
	}
	return 0
}

func (t *fakeTable) newSet(a []byte) syscall.Errno {
	s := &fakeSet{name: text(a, unix.NFTA_SET_NAME), elements: map[string]*fakeElement{}, header: map[uint16]string{}}
	s.flags, s.keyLen, s.valueLen = number(a, unix.NFTA_SET_FLAGS), int(number(a, unix.NFTA_SET_KEY_LEN)), int(number(a, unix.NFTA_SET_DATA_LEN))
	s.size = number(attribute(a, unix.NFTA_SET_DESC), unix.NFTA_SET_DESC_SIZE)
	s.comment, _ = userdata.GetString(attribute(a, unix.NFTA_SET_USERDATA), userdata.NFTNL_UDATA_SET_COMMENT)
	s.timeout = milliseconds(attribute(a, unix.NFTA_SET_TIMEOUT))
	for _, typ := range []uint16{unix.NFTA_SET_FLAGS, unix.NFTA_SET_KEY_TYPE, unix.NFTA_SET_KEY_LEN, unix.NFTA_SET_DATA_TYPE, unix.NFTA_SET_DATA_LEN} {
		s.header[typ] = string(attribute(a, typ))
	}
	if old := t.set(s.name); old != nil {
		if !maps.Equal(old.header, s.header) {
			return unix.EEXIST
		}
		return 0
	}
	if s.keyLen == 0 || s.keyLen > 64 {
		return unix.EINVAL
	}
	t.sets = append(t.sets, s)
	return 0
}

// deleteChain deletes a chain with its rules.
func (t *fakeTable) deleteChain(a []byte) syscall.Errno {
	i := slices.IndexFunc(t.chains, func(c *fakeChain) bool { return c.name == text(a, unix.NFTA_CHAIN_NAME) })
	if i < 0 {
		return unix.ENOENT
	}
	t.chains = slices.Delete(t.chains, i, i+1)
	return 0
}

func (t *fakeTable) deleteSet(a []byte) syscall.Errno {
	name := text(a, unix.NFTA_SET_NAME)
	switch {
	case t.set(name) == nil:
		return unix.ENOENT
	case t.uses(name):
		return unix.EBUSY
	}
	t.sets = slices.DeleteFunc(t.sets, func(s *fakeSet) bool { return s.name == name })
	return 0
}

func (k *fakeKernel) newChain(t *fakeTable, a []byte) syscall.Errno {
	c := &fakeChain{name: text(a, unix.NFTA_CHAIN_NAME), hook: string(attribute(a, unix.NFTA_CHAIN_HOOK))}
	c.comment, _ = userdata.GetString(attribute(a, nftaChainUserdata), udataComment)
	if old := t.chain(c.name); old != nil {
		if old.hook != c.hook {
			return unix.EEXIST
		}
		return 0
	}
	if k.noHooks && c.hook != "" {
		return unix.EOPNOTSUPP
	}
	if len(c.name) >= 256 { // NFT_CHAIN_MAXNAMELEN
		return unix.EINVAL
	}
	t.chains = append(t.chains, c)
	return 0
}

func (k *fakeKernel) newRule(t *fakeTable, a []byte, spelled string) syscall.Errno {
	c := t.chain(text(a, unix.NFTA_RULE_CHAIN))
	if c == nil || spelled == "" {
		return unix.ENOENT
	}
	if k.refuseRule != nil {
		if errno := k.refuseRule(spelled); errno != 0 {
			return errno
		}
	}
	words := strings.Fields(spelled)
	for i, w := range words {
		switch {
		case strings.HasPrefix(w, "@") && t.set(w[1:]) == nil:
			return unix.ENOENT
		case (w == "goto" || w == "jump") && t.chain(words[i+1]) == nil:
			return unix.ENOENT
		}
	}
	c.rules = append(c.rules, fakeRule{spelled, words, bytes.Clone(attribute(a, unix.NFTA_RULE_EXPRESSIONS))})
	return 0
}

func (t *fakeTable) flushRules(a []byte) syscall.Errno {
	if attribute(a, unix.NFTA_RULE_CHAIN) != nil {
		return unix.EOPNOTSUPP // nobody needs it
	}
	for _, c := range t.chains {
		c.rules = nil
	}
	return 0
}

// changeElements adds or deletes the elements of one message, up to the first that is refused.
func (k *fakeKernel) changeElements(t *fakeTable, m received, add bool) (errno syscall.Errno, offset int) {
	a := m.payload[sizeofNfgenmsg:]
	s := t.set(text(a, unix.NFTA_SET_ELEM_LIST_SET))
	if s == nil {
		return unix.ENOENT, 0
	}
	list := attribute(a, unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	if list == nil && !add {
		clear(s.elements)
		return 0, 0
	}
	_ = eachAttribute(list, func(_ uint16, data []byte) error {
		e := parseFakeElement(data)
		if add {
			errno = k.add(t, s, e)
		} else {
			errno = s.remove(e)
		}
		if errno == 0 {
			return nil
		}
		if !k.mute { // the distance between the attribute and the start of the message
			offset = unix.SizeofNlMsghdr + cap(m.payload) - cap(data) - unix.SizeofNlAttr
		}
		return errno
	})
	return errno, offset
}

func (k *fakeKernel) add(t *fakeTable, s *fakeSet, e *fakeElement) syscall.Errno {
	isMap, verdicts := s.flags&unix.NFT_SET_MAP != 0, s.header[unix.NFTA_SET_DATA_TYPE] == "\xff\xff\xff\x00"
	switch {
	case len(e.key) != s.keyLen || e.end != nil && len(e.end) != s.keyLen:
		return unix.EINVAL
	case verdicts && t.chain(e.chain) == nil:
		return unix.ENOENT
	case !verdicts && isMap && len(e.value) != s.valueLen, !isMap && e.value != nil:
		return unix.EINVAL
	case e.left > 0 && s.flags&unix.NFT_SET_TIMEOUT == 0, e.left > 0 && e.left > cmp.Or(e.timeout, s.timeout):
		return unix.EINVAL
	}
	if k.refuse != nil {
		if errno := k.refuse(s.name, e); errno != 0 {
			return errno
		}
	}
	if old := s.elements[e.id()]; old != nil {
		if !bytes.Equal(old.value, e.value) || old.chain != e.chain {
			return unix.EEXIST
		}
		return 0
	}
	if s.size > 0 && len(s.elements) >= int(s.size) {
		return unix.ENFILE
	}
	s.elements[e.id()] = e
	return 0
}

func (s *fakeSet) remove(e *fakeElement) syscall.Errno {
	if s.elements[e.id()] == nil {
		return unix.ENOENT
	}
	delete(s.elements, e.id())
	return 0
}

// id tells elements of one set apart: all of a set's keys have one length.
func (e *fakeElement) id() string {
	if e.last {
		return string(e.key) + "end"
	}
	return string(e.key) + string(e.end)
}

func parseFakeElement(b []byte) *fakeElement {
	d, _ := parseElement(b)
	e := &fakeElement{key: bytes.Clone(d.key), value: bytes.Clone(d.value), chain: d.chain, timeout: d.timeout, left: d.expires}
	if end := attribute(attribute(b, nftaSetElemKeyEnd), unix.NFTA_DATA_VALUE); end != nil {
		e.end = bytes.Clone(end)
	}
	e.last = number(b, unix.NFTA_SET_ELEM_FLAGS)&unix.NFT_SET_ELEM_INTERVAL_END != 0
	e.comment, _ = userdata.GetString(attribute(b, unix.NFTA_SET_ELEM_USERDATA), userdata.NFTNL_UDATA_SET_ELEM_COMMENT)
	return e
}

func (t *fakeTable) set(name string) *fakeSet {
	for _, s := range t.sets {
		if s.name == name {
			return s
		}
	}
	return nil
}

func (t *fakeTable) chain(name string) *fakeChain {
	for _, c := range t.chains {
		if c.name == name {
			return c
		}
	}
	return nil
}

func (t *fakeTable) clone() *fakeTable {
	c := *t
	c.sets, c.chains = slices.Clone(t.sets), slices.Clone(t.chains)
	for i, s := range c.sets {
		x := *s
		x.elements = maps.Clone(s.elements)
		c.sets[i] = &x
	}
	for i, old := range c.chains {
		x := *old
		x.rules = slices.Clone(old.rules)
		c.chains[i] = &x
	}
	return &c
}
