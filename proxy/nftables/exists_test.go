package nftables

import (
	"encoding/binary"
	"errors"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// refusingSocket is a kernel that answers everything with one error.
type refusingSocket struct {
	errno    syscall.Errno
	sequence uint32
}

func (s *refusingSocket) portID() uint32 { return 7 }
func (s *refusingSocket) close() error   { return nil }

func (s *refusingSocket) send(b []byte) error {
	s.sequence = binary.NativeEndian.Uint32(b[8:])
	return nil
}

func (s *refusingSocket) receive(b []byte, wait bool) (int, error) {
	if !wait {
		return 0, unix.EAGAIN
	}
	return copy(b, errorMessage(received{sequence: s.sequence}, s.errno, 0)), nil
}

// A kernel without nftables has no tables; one that does not let us look may have some.
func TestNoTablesWithoutNftables(t *testing.T) {
	for errno, known := range map[syscall.Errno]bool{unix.EINVAL: true, unix.ENOENT: true, unix.EPERM: false} {
		b := newBackend(Options{Family: proxy.IPv4}, &refusingSocket{errno: errno})
		if there, err := b.Exists(); there || (err == nil) != known || err != nil && !errors.Is(err, errno) {
			t.Errorf("%v: %t, %v", errno, there, err)
		}
	}
}
