package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/underway"
)

// kernel is one family's access to nf_tables: transactions in, what the table holds out.
type kernel struct {
	family  proxy.Family
	socket  socket
	encoder encoder
	answer  []byte
	// sent counts dump requests, whose answers are told apart by it. Batches number their messages from 0.
	sent uint32
	// wait returns when the packets are through that are in rules now.
	wait func()
	// unread tells that the socket may hold answers that nobody needs any longer.
	unread bool
}

func newKernel(f proxy.Family, s socket, protect bool) *kernel {
	k := &kernel{family: f, socket: s, answer: make([]byte, 1<<20), wait: underway.Wait}
	k.encoder.family = f
	if protect {
		k.encoder.flags = nftTableFOwner | nftTableFPersist
	}
	return k
}

// Flags of a table that only the socket which made it can change, and that outlives that socket.
const (
	nftTableFOwner   = 0x2 // NFT_TABLE_F_OWNER, Linux 5.12
	nftTableFPersist = 0x4 // NFT_TABLE_F_PERSIST, Linux 6.9
)

// A refusal is the kernel's answer to a transaction that it did not accept. Nothing of the transaction was done.
type refusal struct {
	failures []failure
}

// A failure is what is wrong with one message of a transaction.
type failure struct {
	what    string
	owners  []int32 // the Services of the elements that may be to blame: one if the kernel said where
	element bool    // an element was refused, rather than an object
	err     error
}

func (r *refusal) Error() string {
	f := r.failures[0]
	if len(r.failures) == 1 {
		return fmt.Sprintf("%s: %v", f.what, f.err)
	}
	return fmt.Sprintf("%s: %v (and %d more messages refused)", f.what, f.err, len(r.failures)-1)
}

func (r *refusal) Unwrap() error { return r.failures[0].err }

// commit carries out a transaction, or nothing of it. The error is a *refusal if the kernel named what it does not accept.
func (k *kernel) commit(tx *transaction) error {
	batch, err := k.encoder.encode(tx)
	if err != nil {
		return err
	}
	defer k.encoder.release()
	return k.exchange(batch)
}

// tableExists tells whether there is a table of the name, whatever it holds. A kernel without nftables, which says EINVAL to everything, has none.
func (k *kernel) tableExists() (bool, error) {
	name := k.encoder.tableName()
	err := k.request(unix.NFT_MSG_GETTABLE, 0, func(a *attributes) { a.str(unix.NFTA_TABLE_NAME, name) }, func(received, []byte) error { return nil })
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for table %s of %s: %w", name, k.family, err)
	}
	return true, nil
}

// commitWhole carries out a transaction that makes the whole table. Where there is none yet, the sets of ranges come first: the kernel publishes those (nft_set_commit_update)
// a moment after the rules that look into them, and a pod would be taken for a stranger. The rest of the table comes in one step. If it is refused, sets are left that nothing uses.
func (k *kernel) commitWhole(tx *transaction) error {
	if tx.start == replace {
		exists, err := k.tableExists()
		if err != nil {
			return err
		}
		if !exists {
			if err := k.commit(tx.takeRanges()); err != nil {
				return err
			}
		}
	}
	return k.commit(tx)
}

// exchange sends a batch and reads what the kernel has against it.
func (k *kernel) exchange(batch []byte) error {
	k.drain()
	if err := k.socket.send(batch); err != nil {
		return explain(fmt.Errorf("send a batch of %d bytes: %w", len(batch), err))
	}
	r, err := k.readFailures()
	if err != nil {
		return explain(err)
	}
	if r != nil {
		return r
	}
	return nil
}

// readFailures reads what the kernel answered to the last batch. It asks for no acknowledgements, since hundreds of them would
// overrun the receive buffer: no answer means that the batch was committed.
func (k *kernel) readFailures() (*refusal, error) {
	var r *refusal
	var lost error
	for {
		n, err := k.socket.receive(k.answer, false)
		if errors.Is(err, unix.EAGAIN) {
			if r != nil {
				lost = nil // what was read is enough to know that nothing was done
			}
			return r, lost
		}
		if errors.Is(err, unix.ENOBUFS) {
			// More errors than fit. The kernel tells that first; what did fit must be read, too, or it would be taken for the answer to the next batch.
			lost = fmt.Errorf("read the answer to a batch: %w", err)
			continue
		}
		if err != nil {
			k.unread = true
			return nil, fmt.Errorf("read the answer to a batch: %w", err)
		}
		err = eachMessage(k.answer[:n], func(m received) error {
			if m.typ != unix.NLMSG_ERROR {
				return nil
			}
			e, err := m.failure()
			if err != nil || e == nil {
				return err
			}
			if r == nil {
				r = &refusal{}
			}
			r.failures = append(r.failures, k.failureOf(e))
			return nil
		})
		if err != nil {
			lost = fmt.Errorf("read the answer to a batch: %w", err)
		}
	}
}

// failureOf finds out what an error is about.
func (k *kernel) failureOf(e *kernelError) failure {
	out := failure{what: "batch", err: explain(e)}
	if int(e.sequence) >= len(k.encoder.messages) {
		return out
	}
	m := &k.encoder.messages[e.sequence]
	out.what, out.element = m.what(), m.elements != nil
	if i, ok := k.elementAt(m, e.offset); ok {
		return failure{what: m.what(), element: true, owners: []int32{m.elements[i].owner}, err: explain(e)}
	}
	seen := map[int32]bool{}
	for i := range m.elements {
		if o := m.elements[i].owner; !seen[o] {
			seen[o] = true
			out.owners = append(out.owners, o)
		}
	}
	return out
}

// elementAt finds the element of a message at an offset that the kernel gave.
func (k *kernel) elementAt(m *message, offset int) (int, bool) {
	if m.elements == nil || offset == 0 {
		return 0, false
	}
	at := m.list + unix.SizeofNlAttr
	for i := range m.elements {
		length := int(binary.NativeEndian.Uint16(k.encoder.buf[at:]))
		if m.at+offset >= at && m.at+offset < at+length {
			return i, true
		}
		at += padded(length)
	}
	return 0, false
}

// explain adds to a kernel's error what an operator can do about it.
func explain(err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err
	}
	switch errno {
	case unix.EPERM:
		return fmt.Errorf("%w: needs CAP_NET_ADMIN in the network namespace, and no other process may own the table (nft list tables shows flags owner)", err)
	case unix.EOPNOTSUPP:
		return fmt.Errorf("%w: the kernel lacks a feature, or the table has flags of another owner", err)
	case unix.EMSGSIZE:
		return fmt.Errorf("%w: the send buffer could not be enlarged; needs CAP_NET_ADMIN in the initial user namespace, or a larger net.core.wmem_max", err)
	case unix.ENFILE:
		return fmt.Errorf("%w: a map is full", err)
	}
	return err
}

// request sends a dump request and calls fn for each message of the answer, the family header cut off. It returns ENOENT as it is:
// there is no such table or set.
func (k *kernel) request(typ, flags uint16, build func(a *attributes), fn func(m received, attributes []byte) error) error {
	k.drain()
	k.sent++
	e := encoder{family: k.family}
	e.begin(typ, flags, "", "")
	binary.NativeEndian.PutUint32(e.buf[8:], k.sent)
	build(&e.attributes)
	e.finish()
	if err := k.socket.send(e.buf); err != nil {
		return explain(err)
	}
	var failed error
	for {
		done, err := k.readAnswer(flags&unix.NLM_F_DUMP != 0, fn)
		if failed == nil {
			failed = err
		}
		if done {
			return failed
		}
		// Also a dump that was interrupted is read to its end.
		if err != nil && !errors.Is(err, errInterrupted) {
			k.unread = true
			return failed
		}
	}
}

// drain reads what was left unread, so that it is not taken for the answer to what comes next. The kernel refuses a second dump on a socket
// before the first was read to its end.
func (k *kernel) drain() {
	for k.unread {
		_, err := k.socket.receive(k.answer, false)
		if errors.Is(err, unix.EAGAIN) {
			k.unread = false
		} else if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
	}
}

func (k *kernel) readAnswer(dump bool, fn func(m received, attributes []byte) error) (done bool, err error) {
	n, err := k.socket.receive(k.answer, true)
	if err != nil {
		return false, fmt.Errorf("read an answer: %w", err)
	}
	interrupted := false
	err = eachMessage(k.answer[:n], func(m received) error {
		if m.sequence != k.sent {
			return nil // a late answer to a request that was given up
		}
		interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
		switch {
		case m.typ == unix.NLMSG_DONE:
			done = true
			return nil
		case m.typ == unix.NLMSG_ERROR:
			done = true
			e, err := m.failure()
			if err == nil && e != nil {
				err = explain(e)
			}
			return err
		case len(m.payload) < sizeofNfgenmsg:
			return errTruncated
		case interrupted:
			return nil
		}
		done = done || !dump
		return fn(m, m.payload[sizeofNfgenmsg:])
	})
	if err == nil && interrupted {
		err = errInterrupted
	}
	return done, err
}

const sizeofNfgenmsg = 4

// errInterrupted tells that the table changed during a dump, which may therefore miss entries.
var errInterrupted = errors.New("the table changed while it was read")
