package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// faulty is a socket that fails at random, in the ways in which one to the kernel can.
type faulty struct {
	socket
	rng     *rand.Rand
	percent int
	pending [][]byte // answers that nobody gave
	dump    bool     // the last request was one for a dump
	seen    map[string]int
}

func (f *faulty) fails(what string) bool {
	if f.rng.IntN(100) >= f.percent {
		return false
	}
	f.seen[what]++
	return true
}

func (f *faulty) send(b []byte) error {
	for _, errno := range []syscall.Errno{unix.EPERM, unix.ENOBUFS, unix.EMSGSIZE, unix.EINTR} {
		if f.fails("send " + errno.Error()) {
			return errno
		}
	}
	batch := binary.NativeEndian.Uint16(b[4:]) == unix.NFNL_MSG_BATCH_BEGIN
	f.dump = !batch && binary.NativeEndian.Uint16(b[6:])&unix.NLM_F_DUMP != 0
	for _, errno := range []syscall.Errno{unix.EBUSY, unix.ERESTART, unix.ENOMEM} {
		if f.fails("answer " + errno.Error()) { // instead of doing anything
			f.pending = append(f.pending, errorMessage(received{sequence: binary.NativeEndian.Uint32(b[8:])}, errno, 0))
			return nil
		}
	}
	return f.socket.send(b)
}

func (f *faulty) receive(b []byte, wait bool) (int, error) {
	for _, errno := range []syscall.Errno{unix.ENOBUFS, unix.EINTR, unix.ENOMEM} {
		if f.fails("receive " + errno.Error()) {
			return 0, errno
		}
	}
	if len(f.pending) > 0 {
		n := copy(b, f.pending[0])
		f.pending = f.pending[1:]
		return n, nil
	}
	n, err := f.socket.receive(b, wait)
	switch {
	case errors.Is(err, unix.EAGAIN) && f.fails("garbage"):
		n = 1 + f.rng.IntN(60)
		for i := range n {
			b[i] = byte(f.rng.IntN(256))
		}
		return n, nil
	case err != nil:
		return n, err
	case f.fails("truncated"):
		return f.rng.IntN(n), nil
	case f.dump && n > 20 && f.fails("interrupted"):
		b[6] |= unix.NLM_F_DUMP_INTR
	case f.dump && n > 60 && f.fails("flipped"):
		b[20+f.rng.IntN(n-20)] ^= 1 << f.rng.IntN(8)
	}
	return n, nil
}

// Whatever fails on the way to the kernel: nothing panics, the table is always one that was asked for, no Service is blamed that is not
// to blame, and as soon as nothing fails any more the table is right.
func TestFaults(t *testing.T) {
	for _, f := range proxy.Families {
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			w := &walker{t: t, rng: rand.New(rand.NewPCG(11, uint64(f))), kernel: newFakeKernel(f)}
			faults := &faulty{rng: w.rng, seen: map[string]int{}}
			start := func() {
				w.backend = w.kernel.backendThrough(Options{}, func(s socket) socket { faults.socket = s; return faults })
			}
			start()
			poisoned := false
			w.kernel.refuse = func(set string, e *fakeElement) syscall.Errno {
				if poisoned && set == "frontends" && strings.HasPrefix(e.comment, "ns-1/") {
					return unix.ERANGE
				}
				return 0
			}
			w.state = proxytest.RandomState(w.rng, f, 12)
			failures, successes := 0, 0
			for round := range 40 {
				w.steps = round
				poisoned, w.kernel.mute = round%4 == 3, round%8 == 7
				var asked []*proxy.State
				for range 4 {
					w.state = proxytest.Mutate(w.rng, w.state, 1+w.rng.IntN(3))
					asked = append(asked, w.state)
					faults.percent = 1 + w.rng.IntN(2)
					if w.rng.IntN(6) == 0 {
						start()
					}
					r, err := w.backend.Apply(t.Context(), w.state)
					if err == nil {
						successes++
						asked = asked[len(asked)-1:]
						w.before = w.state
						w.checkRejected(r, poisoned, false)
						continue
					}
					failures++
					if !poisoned {
						w.checkOneOf(asked)
					}
				}
				faults.percent = 0
				if poisoned {
					w.backend.Forget()
				}
				w.applyWithoutFaults(poisoned)
				if poisoned {
					poisoned, w.backend.excluded = false, map[proxy.ServicePortName]error{}
					w.backend.Forget()
					w.applyWithoutFaults(false)
				}
				w.checkTraces()
				w.checkSize()
				w.before = w.state
			}
			t.Logf("%d failures, %d successes, %v", failures, successes, faults.seen)
			if failures < 30 || successes < 30 || len(faults.seen) < 13 {
				t.Errorf("%d failures and %d successes, by %v", failures, successes, faults.seen)
			}
		})
	}
}

func (w *walker) applyWithoutFaults(poisoned bool) {
	w.t.Helper()
	r, err := w.backend.Apply(w.t.Context(), w.state)
	if err != nil {
		w.t.Fatalf("round %d, without faults: %v", w.steps, err)
	}
	w.checkRejected(r, poisoned, true)
}

// checkOneOf finds a State among those that were asked for which the table follows.
func (w *walker) checkOneOf(states []*proxy.State) {
	w.t.Helper()
	if w.kernel.tables[TableName] == nil {
		return // nothing was carried out yet
	}
	follows := func(s *proxy.State) string {
		for _, p := range proxytest.Packets(s, proxytest.Addressing()) {
			tr := w.kernel.trace(p)
			if len(tr.results) == 1 && tr.results[0].known {
				continue // clients are forgotten after the State is programmed, which may have failed
			}
			if problem := compareTraces(tr, proxytest.Trace(s, p)); problem != "" {
				return fmt.Sprintf("%v: %s", p, problem)
			}
		}
		return ""
	}
	var problems []string
	for _, s := range slices.Backward(append([]*proxy.State{w.before}, states...)) {
		if s == nil {
			continue
		}
		problem := follows(s)
		if problem == "" {
			w.before = s
			return
		}
		problems = append(problems, problem)
	}
	w.t.Fatalf("the table follows no State that it was asked to follow: %v", problems)
}

// checkRejected compares the Services that were left out with those that the kernel refuses. If not all were sent, some may still be
// programmed from the time before it did.
func (w *walker) checkRejected(r proxy.Report, poisoned, all bool) {
	w.t.Helper()
	var want, got []string
	for name, s := range w.state.Services.All() {
		listed := slices.ContainsFunc(s.Frontends, func(f proxy.Frontend) bool { return f.Kind != proxy.NodePort })
		if poisoned && name.Namespace == "ns-1" && listed {
			want = append(want, name.String())
		}
	}
	for _, x := range r.Rejected {
		got = append(got, x.Name.String())
		if !errors.Is(x.Err, unix.ERANGE) {
			w.t.Errorf("round %d: %s is left out: %v", w.steps, x.Name, x.Err)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !all {
		want = slices.DeleteFunc(want, func(name string) bool { return !slices.Contains(got, name) })
	}
	if diff := cmp.Diff(want, got); diff != "" && len(want)+len(got) > 0 {
		w.t.Fatalf("round %d: left out: -want +got:\n%s", w.steps, diff)
	}
}

// The same against the kernel: it holds in the end what the fake does, and the fake what the State says.
func TestKernelFaults(t *testing.T) {
	inKernel(t, func() {
		w := &walker{t: t, rng: rand.New(rand.NewPCG(12, 0)), kernel: newFakeKernel(proxy.IPv4)}
		w.backend = newTwins(t, w.kernel)
		faults := &faulty{socket: w.backend.kernel.socket, rng: w.rng, seen: map[string]int{}}
		w.backend.kernel.socket = faults
		w.state = proxytest.RandomState(w.rng, proxy.IPv4, 12)
		failures := 0
		for range 10 {
			faults.percent = 5
			for range 4 {
				w.state = proxytest.Mutate(w.rng, w.state, 2)
				if _, err := w.backend.Apply(t.Context(), w.state); err != nil {
					failures++
				}
			}
			faults.percent = 0
			if r, err := w.backend.Apply(t.Context(), w.state); err != nil || len(r.Rejected) > 0 {
				t.Fatalf("without faults: %+v, %v", r, err)
			}
			w.checkTraces()
			// Clients of the fake were made up by checkTraces.
			clear(w.kernel.tables[TableName].set("affinity").elements)
			if diff := cmp.Diff(w.kernel.dump(), listTable(t, proxy.IPv4)); diff != "" {
				t.Fatalf("-fake +kernel:\n%s", diff)
			}
		}
		if failures < 10 {
			t.Errorf("only %d failures, by %v", failures, faults.seen)
		}
	})
}

// An answer that does not fit the receive buffer is lost in part, which the kernel tells before what is left of it. What is left must
// not be taken for the answer to something else.
func TestOverrun(t *testing.T) {
	k := newFakeKernel(proxy.IPv4)
	var over *overrun
	b := k.backendThrough(Options{}, func(s socket) socket { over = &overrun{socket: s}; return over })
	service := func(name string) *proxy.Service {
		return proxytest.NewService("ns/"+name+"/TCP", proxytest.At(proxy.ClusterIP, "10.96.0.1:80", proxytest.RejectAll))
	}
	k.refuse = func(set string, e *fakeElement) syscall.Errno {
		if e.comment == "ns/bad/TCP" {
			return unix.ERANGE
		}
		return 0
	}
	for _, row := range []struct {
		name string
		want error
	}{{"bad", unix.ENOBUFS}, {"good", unix.ENOBUFS}, {"bad", unix.ERANGE}, {"good", nil}} {
		over.armed = errors.Is(row.want, unix.ENOBUFS)
		tx := newTable(proxytest.NewState(proxy.IPv4, service(row.name)), nil, map[proxy.ServicePortName]error{}).build(replace)
		if err := b.kernel.commit(tx); !errors.Is(err, row.want) {
			// What was read of a refusal is as good as being told that something was lost.
			if row.name != "bad" || !errors.Is(err, unix.ERANGE) {
				t.Errorf("%s: %v, want %v", row.name, err, row.want)
			}
		}
		if s := over.socket.(*fakeSocket); len(s.queue) > 0 {
			t.Errorf("%s: %d answers were not read", row.name, len(s.queue))
			s.queue = nil
		}
	}
}

// overrun is a socket whose receive buffer overflows once: the reader is told before it can read what fitted.
type overrun struct {
	socket
	armed bool
}

func (o *overrun) receive(b []byte, wait bool) (int, error) {
	if o.armed && !wait {
		o.armed = false
		return 0, unix.ENOBUFS
	}
	return o.socket.receive(b, wait)
}

// What an operator can do is said with each error that the system gives.
func TestErrorsSayWhatToDo(t *testing.T) {
	for errno, want := range map[syscall.Errno]string{
		unix.EPERM: "CAP_NET_ADMIN", unix.EMSGSIZE: "net.core.wmem_max", unix.ENFILE: "full", unix.EOPNOTSUPP: "feature",
	} {
		for _, how := range []string{"send", "answer"} {
			k := newFakeKernel(proxy.IPv4)
			b := k.backendThrough(Options{}, func(s socket) socket { return &failing{s, how, errno} })
			_, err := b.Apply(t.Context(), proxytest.NewState(proxy.IPv4))
			if !errors.Is(err, errno) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s %v: %v; want it to name %q", how, errno, err, want)
			}
			if strings.Count(err.Error(), want) > 1 {
				t.Errorf("%s %v: said twice: %v", how, errno, err)
			}
		}
	}
}

// failing is a socket on which every batch fails in the same way.
type failing struct {
	socket
	how   string
	errno syscall.Errno
}

func (f *failing) send(b []byte) error {
	if binary.NativeEndian.Uint16(b[4:]) != unix.NFNL_MSG_BATCH_BEGIN {
		return f.socket.send(b)
	}
	if f.how == "send" {
		return f.errno
	}
	s := f.socket.(*fakeSocket)
	s.queue = append(s.queue, errorMessage(received{sequence: 0}, f.errno, 0))
	return nil
}

// A kernel that does not answer is not waited for without end.
func TestNoAnswer(t *testing.T) {
	inKernel(t, func() {
		s, err := openSocket()
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		tv, err := unix.GetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO)
		if err != nil || time.Duration(tv.Nano()) != answerSeconds*time.Second {
			t.Errorf("waits %v, %v", tv, err)
		}
	})
}
