package nftables

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// A tracer says what becomes of packets by the rules and elements in a fakeKernel. It reads the rules' texts; that the kernel reads
// the same is what the comparison with nft's listing proves.
type tracer struct {
	family proxy.Family
	// The rules are those of old. The first so many lookups of a packet see the elements of old, all others those of new: a
	// packet walks the rules of one generation, but each lookup sees what is committed at the time.
	old, new *fakeTable
	split    int
	packet   proxytest.Packet
	lookups  int // the most that a way had
	results  []traced
	failures []string
}

// traced is one of the ways that a packet may go.
type traced struct {
	verdict proxytest.TraceVerdict
	to      proxytest.Destination
	known   bool // the client was led to the endpoint by the affinity map
	left    bool // postrouting was entered
	early   bool // it was led to a chain that had no rules when it started
	// Elements that the packet wrote to the affinity map.
	learned []*fakeElement
}

// walk is a packet on its way.
type walk struct {
	priority, mark uint32
	source         netip.Addr
	to             netip.AddrPort
	translated     bool
	lookups        int
	stack          []frame
	out            traced
}

type frame struct {
	chain *fakeChain
	rule  int
}

// trace follows a packet through one table.
func (k *fakeKernel) trace(p proxytest.Packet) *tracer {
	t := k.tables[TableName]
	return traceMixed(k.family, t, t, 0, p)
}

func traceMixed(f proxy.Family, before, after *fakeTable, split int, p proxytest.Packet) *tracer {
	t := &tracer{family: f, old: before, new: after, split: split, packet: p}
	w := walk{source: p.Source, to: netip.AddrPortFrom(p.Destination, p.Port), priority: 0x160003} // a priority that it brought along
	hook := natPrerouting
	if p.Interface == "" {
		hook = natOutput
	}
	t.enter(w, hook)
	return t
}

// outcome sums up the ways that a packet may go.
func (t *tracer) outcome() proxytest.Outcome {
	var out proxytest.Outcome
	for i, r := range t.results {
		if i > 0 && r.verdict != out.Verdict {
			t.fail("verdicts %v and %v", out.Verdict, r.verdict)
		}
		out.Verdict = r.verdict
		if r.verdict == proxytest.Forwarded && !slices.Contains(out.Destinations, r.to) {
			out.Destinations = append(out.Destinations, r.to)
		}
	}
	slices.SortFunc(out.Destinations, func(a, b proxytest.Destination) int { return a.Addr.Compare(b.Addr) })
	return out
}

func (t *tracer) fail(format string, args ...any) {
	t.failures = append(t.failures, fmt.Sprintf(format, args...))
}

func (t *tracer) enter(w walk, chain string) {
	c := t.old.chain(chain)
	if c == nil {
		t.fail("no chain %s", chain)
		return
	}
	w.stack = append(slices.Clone(w.stack), frame{c, 0})
	t.run(w)
}

// run carries out rules until the packet leaves the base chain or a rule splits its way.
func (t *tracer) run(w walk) {
	for len(w.stack) > 0 {
		f := &w.stack[len(w.stack)-1]
		if f.rule >= len(f.chain.rules) {
			w.stack = w.stack[:len(w.stack)-1]
			continue
		}
		words := f.chain.rules[f.rule].words
		f.rule++
		if t.rule(&w, words) {
			return
		}
	}
	t.finish(w, proxytest.Pass)
}

// finish ends a way, after postrouting if an endpoint was chosen.
func (t *tracer) finish(w walk, v proxytest.TraceVerdict) {
	if w.translated && v == proxytest.Pass && !w.out.left {
		w.out.left = true // postrouting comes once
		t.enter(walk{priority: w.priority, mark: w.mark, source: w.source, to: w.to, translated: true, lookups: w.lookups, out: w.out}, natPostrouting)
		return
	}
	if w.translated && v == proxytest.Pass {
		v = proxytest.Forwarded
		w.out.to.Addr = w.to
	}
	w.out.verdict = v
	t.results = append(t.results, w.out)
}

// rule carries out one rule; done tells that the way ended or went on elsewhere.
func (t *tracer) rule(w *walk, words []string) (done bool) {
	r := &reader{words}
	for !r.end() {
		goOn, done := t.statement(w, r)
		if done {
			return true
		}
		if !goOn {
			return false
		}
	}
	return false
}

// statement carries out one match or statement. goOn tells that the rule continues.
func (t *tracer) statement(w *walk, r *reader) (goOn, done bool) {
	switch {
	case r.take("goto"):
		next := *w
		next.stack = slices.Clone(w.stack[:len(w.stack)-1])
		t.enter(next, r.word())
		return false, true
	case r.take("jump"):
		t.enter(*w, r.word())
		return false, true
	case r.take("return"):
		w.stack = w.stack[:len(w.stack)-1]
		return false, false
	case r.take("drop"):
		t.finish(*w, proxytest.Dropped)
		return false, true
	case r.take("reject"):
		if r.take("with", "tcp", "reset") && t.packet.Protocol != proxy.TCP {
			return false, false
		}
		t.finish(*w, proxytest.Rejected)
		return false, true
	case r.take("masquerade", "fully-random"):
		w.out.to.Masquerade = true
		t.finish(*w, proxytest.Pass)
		return false, true
	case r.take("dnat", "ip", "to"), r.take("dnat", "ip6", "to"):
		return false, t.translate(w, r)
	case r.take("meta", "priority", "set"):
		return t.setPriority(w, r), false
	case r.take("meta", "mark", "set", "meta", "mark", "|"):
		w.mark |= r.hex()
		return true, false
	case r.take("meta", "mark", "set", "meta", "mark", "&"):
		w.mark &= r.hex()
		return true, false
	case r.take("update"):
		t.update(w, r)
		return true, false
	}
	return t.match(w, r)
}

// translate chooses an endpoint, in all ways that chance may take. The rule ends where the map has nothing.
func (t *tracer) translate(w *walk, r *reader) (done bool) {
	start := *r
	n := 1
	if i := slices.Index(r.words, "numgen"); i >= 0 {
		n, _ = strconv.Atoi(r.words[i+3])
	}
	for choice := range n {
		*r = start
		next := *w
		next.stack = slices.Clone(w.stack)
		key := t.key(&next, r, uint32(choice))
		if !r.take("map") {
			t.fail("dnat without a map: %v", r.words)
		}
		name := r.word()
		if e := t.lookup(&next, name, key); e != nil {
			size := t.family.Bits() / 8
			next.to = netip.AddrPortFrom(netipBytes(e.value[:size]), binary.BigEndian.Uint16(e.value[size:]))
			next.translated, next.stack = true, nil
			next.out.known = name == "@affinity"
			t.finish(next, proxytest.Pass)
			continue
		}
		if name == "@endpoints" && t.old == t.new {
			t.fail("no element for slot %d of %d, key %x", choice, n, key)
		}
		t.run(next)
	}
	return true
}

func (t *tracer) setPriority(w *walk, r *reader) (goOn bool) {
	if r.take("none") {
		w.priority = 0
		return true
	}
	key := t.key(w, r, 0)
	if !r.take("map") {
		w.priority = binary.NativeEndian.Uint32(key)
		return true
	}
	e := t.lookup(w, r.word(), key)
	if e == nil {
		return false
	}
	w.priority = binary.NativeEndian.Uint32(e.value)
	return true
}

// update notes what a packet writes to the affinity map: "update @affinity { key timeout 1m : value }".
func (t *tracer) update(w *walk, r *reader) {
	r.word()
	r.expect("{")
	e := &fakeElement{key: t.key(w, r, 0)}
	r.expect("timeout")
	e.timeout = parseNftDuration(r.word())
	e.left = e.timeout
	r.expect(":")
	e.value = t.key(w, r, 0)
	r.expect("}")
	w.out.learned = append(slices.Clone(w.out.learned), e)
}

// match carries out what the rule's continuation depends on.
func (t *tracer) match(w *walk, r *reader) (goOn, done bool) {
	switch {
	case r.take("fib", "saddr", "type", "local"):
		return t.local(w.source), false
	case r.take("fib", "daddr", "type", "local"):
		return t.local(w.to.Addr()), false
	case r.take("fib", "daddr", "type", "!=", "local"):
		return !t.local(w.to.Addr()), false
	case r.take("ct", "status", "dnat"):
		return w.translated, false
	case r.take("ct", "status", "!", "dnat"):
		return !w.translated, false
	case r.take("iifname"):
		name, _ := strconv.Unquote(r.word())
		prefix, open := strings.CutSuffix(name, "*")
		return t.packet.Interface == name || open && strings.HasPrefix(t.packet.Interface, prefix), false
	case r.take("ip", "daddr", "!=", "127.0.0.0/8"), r.take("ip6", "daddr", "!=", "::1"):
		return !w.to.Addr().IsLoopback(), false
	case r.take("meta", "mark", "&"):
		bit := r.hex()
		r.expect("==")
		return w.mark&bit == r.hex(), false
	}
	key := t.key(w, r, 0)
	switch {
	case r.take("vmap"):
		e := t.lookup(w, r.word(), key)
		if e == nil {
			return false, false
		}
		next := *w
		next.stack = slices.Clone(w.stack[:len(w.stack)-1])
		if c := t.old.chain(e.chain); c == nil || len(c.rules) == 0 {
			// The rules of the class's chain came with this very commit, and the packet walks the generation before.
			next.out.early = true
			t.run(next)
			return false, true
		}
		t.enter(next, e.chain)
		return false, true
	case r.take("==", "none"):
		return binary.NativeEndian.Uint32(key) == 0, false
	case r.take("==", "none"):
		return binary.NativeEndian.Uint32(key) == 0, false
	case r.take("!="):
		return t.lookup(w, r.word(), key) == nil, false
	}
	return t.lookup(w, r.word(), key) != nil, false
}

func (t *tracer) local(a netip.Addr) bool {
	return slices.Contains(t.packet.NodeAddrs, a) || a.IsLoopback()
}

// key reads a concatenation and returns its bytes in registers.
func (t *tracer) key(w *walk, r *reader, choice uint32) (out []byte) {
	for {
		out = append(out, t.field(w, r, choice)...)
		if !r.take(".") {
			return out
		}
	}
}

func (t *tracer) field(w *walk, r *reader, choice uint32) []byte {
	port := func(p uint16) []byte { return []byte{byte(p >> 8), byte(p), 0, 0} }
	switch {
	case r.take("ip", "saddr"), r.take("ip6", "saddr"):
		return w.source.AsSlice()
	case r.take("ip", "daddr"), r.take("ip6", "daddr"):
		return w.to.Addr().AsSlice()
	case r.take("ct", "original", "ip", "daddr"), r.take("ct", "original", "ip6", "daddr"):
		return t.packet.Destination.AsSlice()
	case r.take("ct", "original", "proto-dst"):
		return port(t.packet.Port)
	case r.take("th", "dport"):
		return port(w.to.Port())
	case r.take("meta", "l4proto"):
		return []byte{byte(t.packet.Protocol), 0, 0, 0}
	case r.take("meta", "priority"):
		v := w.priority
		if r.take("&") {
			v &= r.classid()
		}
		return host(v)
	case r.take("numgen", "random", "mod"):
		r.word()
		return host(choice)
	}
	t.fail("cannot read %v", r.words)
	r.words = nil
	return nil
}

// lookup finds a key in a set, in the generation that is current.
func (t *tracer) lookup(w *walk, name string, key []byte) *fakeElement {
	table := t.new
	if w.lookups < t.split {
		table = t.old
	}
	w.lookups++
	t.lookups = max(t.lookups, w.lookups)
	s := table.set(strings.TrimPrefix(name, "@"))
	if s == nil {
		t.fail("no set %s", name)
		return nil
	}
	switch {
	case s.flags&unix.NFT_SET_INTERVAL == 0:
		return s.elements[(&fakeElement{key: key}).id()]
	case s.flags&nftSetConcat != 0:
		return s.inConcatenation(key, t.family.Bits()/8)
	}
	return s.inInterval(key)
}

// inInterval finds the mark at or before the key: it is in a range if that starts one.
func (s *fakeSet) inInterval(key []byte) (at *fakeElement) {
	for _, e := range s.sorted() {
		if bytes.Compare(e.key, key) > 0 {
			break
		}
		at = e
	}
	if at != nil && at.last {
		return nil
	}
	return at
}

func (s *fakeSet) inConcatenation(key []byte, n int) *fakeElement {
	for _, e := range s.elements {
		i := len(key) - n
		if bytes.Equal(e.key[:i], key[:i]) && bytes.Compare(e.key[i:], key[i:]) <= 0 && bytes.Compare(key[i:], e.end[i:]) <= 0 {
			return e
		}
	}
	return nil
}

// reader reads a rule's text word by word.
type reader struct{ words []string }

func (r *reader) end() bool { return len(r.words) == 0 }

// take skips the words if they come next.
func (r *reader) take(words ...string) bool {
	if len(r.words) < len(words) || !slices.Equal(r.words[:len(words)], words) {
		return false
	}
	r.words = r.words[len(words):]
	return true
}

func (r *reader) word() string {
	w := r.words[0]
	r.words = r.words[1:]
	return w
}

func (r *reader) expect(word string) {
	if !r.take(word) {
		panic(fmt.Sprintf("want %q before %v", word, r.words))
	}
}

func (r *reader) hex() uint32 {
	v, err := strconv.ParseUint(r.word(), 0, 32)
	if err != nil {
		panic(err)
	}
	return uint32(v)
}

func (r *reader) classid() uint32 {
	high, low, _ := strings.Cut(r.word(), ":")
	a, errA := strconv.ParseUint(high, 16, 16)
	b, errB := strconv.ParseUint(low, 16, 16)
	if err := cmp.Or(errA, errB); err != nil {
		panic(err)
	}
	return uint32(a<<16 | b)
}

// parseNftDuration is the reverse of nftDuration.
func parseNftDuration(s string) time.Duration {
	var sum time.Duration
	for s != "" {
		i := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
		n, err := strconv.Atoi(s[:i])
		if err != nil {
			panic(err)
		}
		s = s[i:]
		for _, u := range []struct {
			name string
			d    time.Duration
		}{{"ms", time.Millisecond}, {"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}} {
			if strings.HasPrefix(s, u.name) {
				s, sum = s[len(u.name):], sum+time.Duration(n)*u.d
				break
			}
		}
	}
	return sum
}
