package nftables

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// Whatever a table is made of is known as our own later, or it would be replaced with every rebuild.
func TestNothingOfOursIsStrange(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	seen := 0
	for range 50 {
		for _, f := range proxy.Families {
			tx := newTable(proxytest.RandomState(rng, f, 20), nil, map[proxy.ServicePortName]error{}).build(replace)
			for _, c := range tx.chains {
				names := plainChain
				if c.hook != nil {
					names = hookedChain
				}
				if seen++; !names.MatchString(c.name) {
					t.Errorf("chain %s is strange", c.name)
				}
			}
		}
	}
	if seen < 1000 {
		t.Errorf("saw only %d chains", seen)
	}
}

// What others added is gone after a rebuild, which does not replace the table for nothing else.
func TestStrange(t *testing.T) {
	proxytest.InNamespace(t, func() {
		b, err := New(Options{Family: proxy.IPv4})
		if err != nil {
			t.Skip(err)
		}
		defer b.Close()
		state := proxytest.RandomState(rand.New(rand.NewPCG(7, 8)), proxy.IPv4, 20)
		rebuild := func() {
			t.Helper()
			b.Forget()
			if _, err := b.Apply(context.Background(), state); err != nil {
				t.Fatal(err)
			}
		}
		isStrange := func(want bool, when string) {
			t.Helper()
			if got, err := b.kernel.strange(); err != nil || got != want {
				t.Fatalf("%s: strange %v, %v; want %v", when, got, err, want)
			}
		}
		rebuild()
		isStrange(false, "at first")
		for name, tx := range map[string]*transaction{
			"hooked chain":          {chains: []chain{{name: "foreign", hook: &hook{"input", unix.NF_INET_LOCAL_IN, 7, "7"}}}},
			"hooked chain of class": {chains: []chain{{name: "pick-7777", hook: &hook{"input", unix.NF_INET_LOCAL_IN, 7, "7"}}}},
			"chain":                 {chains: []chain{{name: "foreign"}}},
			"set":                   {sets: []*set{{name: "foreign", key: []datatype{typeAddr}}}},
		} {
			if err := b.kernel.commit(tx); err != nil {
				t.Fatalf("add %s: %v", name, err)
			}
			isStrange(true, name)
			rebuild()
			isStrange(false, "after "+name)
		}
	})
}

// script is a socket that answers each request with prepared datagrams.
type script struct {
	socket
	answers [][]byte
}

func (*script) send([]byte) error { return nil }

func (s *script) receive(b []byte, _ bool) (int, error) {
	if len(s.answers) == 0 {
		return 0, errors.New("nothing more to receive")
	}
	n := copy(b, s.answers[0])
	s.answers = s.answers[1:]
	return n, nil
}

// A dump that was interrupted is read to its end, so that the next one may begin.
func TestInterruptedDump(t *testing.T) {
	message := func(typ, flags uint16, sequence uint32) []byte {
		b := binary.NativeEndian.AppendUint32(nil, unix.SizeofNlMsghdr+sizeofNfgenmsg)
		b = binary.NativeEndian.AppendUint16(b, typ)
		b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_MULTI)
		b = binary.NativeEndian.AppendUint32(b, sequence)
		return append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	const part = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWSETELEM
	for _, c := range []struct {
		name  string
		first [][]byte
	}{
		{"in a part", [][]byte{message(part, 0, 1), message(part, unix.NLM_F_DUMP_INTR, 1), message(part, 0, 1), message(unix.NLMSG_DONE, 0, 1)}},
		{"at its end", [][]byte{message(part, 0, 1), message(unix.NLMSG_DONE, unix.NLM_F_DUMP_INTR, 1)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &script{answers: append(c.first, message(part, 0, 2), message(unix.NLMSG_DONE, 0, 2))}
			k := newKernel(proxy.IPv4, s, false)
			read := func() (parts int, err error) {
				err = k.request(unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, func(*attributes) {}, func(received, []byte) error { parts++; return nil })
				return parts, err
			}
			if _, err := read(); !errors.Is(err, errInterrupted) {
				t.Fatalf("first dump: %v, want %v", err, errInterrupted)
			}
			if len(s.answers) != 2 {
				t.Fatalf("%d answers left, want the 2 of the next dump", len(s.answers))
			}
			if parts, err := read(); err != nil || parts != 1 {
				t.Fatalf("second dump: %d parts, %v; want 1", parts, err)
			}
		})
	}
}
