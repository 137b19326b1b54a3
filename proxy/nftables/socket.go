package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// A socket carries messages to the kernel and its answers back. It is the seam at which tests make the kernel fail.
type socket interface {
	// send hands over a batch or a request. For a batch, the kernel is done when send returns.
	send(b []byte) error
	// receive reads one datagram. Without wait it fails with EAGAIN if there is none.
	receive(b []byte, wait bool) (int, error)
	// portID is the number by which the kernel names this socket as the author of changes.
	portID() uint32
	close() error
}

// netlinkSocket is a lasting socket of family NETLINK_NETFILTER. It is raw, rather than a library's: a batch is one buffer of
// up to tens of MB that must go out in a single sendmsg, and closing and opening sockets costs 10 ms each while the kernel
// still frees what earlier batches deleted (measured).
type netlinkSocket struct {
	fd   int
	port uint32
}

const (
	// sendBuffer bounds a batch; 30,000 Services of 5 endpoints need 15 MB.
	sendBuffer = 512 << 20
	// receiveBuffer holds the answers to a batch that fails in many places, and dumps in large pieces.
	receiveBuffer = 8 << 20
	// answerSeconds is how long to wait for an answer that the kernel owes. It writes dumps while they are read, so this is only
	// met if something is broken; the rules stay as they are then.
	answerSeconds = 10
)

func openSocket(groups ...uint32) (*netlinkSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netfilter netlink socket (is the kernel built with nfnetlink?): %w", err)
	}
	s := &netlinkSocket{fd: fd}
	if err := s.setUp(groups); err != nil {
		return nil, errors.Join(fmt.Errorf("set up netfilter netlink socket: %w", err), s.close())
	}
	return s, nil
}

func (s *netlinkSocket) setUp(groups []uint32) error {
	if err := unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for _, g := range groups {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(g)); err != nil {
			return err
		}
	}
	// Without CAP_NET_ADMIN the buffers stay small, and nothing else will work either: the first batch says so.
	_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer)
	_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
	// Errors come back without the message that they are about, but with a text and the place in it.
	_ = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	_ = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: answerSeconds}); err != nil {
		return err
	}
	name, err := unix.Getsockname(s.fd)
	if err != nil {
		return err
	}
	s.port = name.(*unix.SockaddrNetlink).Pid
	return nil
}

func (s *netlinkSocket) send(b []byte) error {
	return retryInterrupted(func() error {
		return unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	})
}

func (s *netlinkSocket) receive(b []byte, wait bool) (n int, err error) {
	flags := 0
	if !wait {
		flags = unix.MSG_DONTWAIT
	}
	err = retryInterrupted(func() error {
		n, _, err = unix.Recvfrom(s.fd, b, flags)
		return err
	})
	return n, err
}

func retryInterrupted(fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (s *netlinkSocket) portID() uint32 { return s.port }

func (s *netlinkSocket) close() error { return unix.Close(s.fd) }

// A kernelError is the kernel's answer to one message.
type kernelError struct {
	errno    syscall.Errno
	sequence uint32
	offset   int    // of the attribute that it is about, from the start of the message; 0 if not told
	text     string // the kernel's own words, if any
}

func (e *kernelError) Error() string {
	if e.text != "" {
		return fmt.Sprintf("%v (%s)", e.errno, e.text)
	}
	return e.errno.Error()
}

func (e *kernelError) Unwrap() error { return e.errno }

// eachMessage calls fn for each netlink message in a datagram: its header's type, flags and sequence number, and its payload.
func eachMessage(b []byte, fn func(m received) error) error {
	for len(b) > 0 {
		if len(b) < unix.SizeofNlMsghdr {
			return errTruncated
		}
		length := int(binary.NativeEndian.Uint32(b))
		if length < unix.SizeofNlMsghdr || length > len(b) {
			return errTruncated
		}
		m := received{
			typ: binary.NativeEndian.Uint16(b[4:]), flags: binary.NativeEndian.Uint16(b[6:]),
			sequence: binary.NativeEndian.Uint32(b[8:]), port: binary.NativeEndian.Uint32(b[12:]),
			payload: b[unix.SizeofNlMsghdr:length],
		}
		if err := fn(m); err != nil {
			return err
		}
		b = b[min(len(b), padded(length)):]
	}
	return nil
}

type received struct {
	typ, flags     uint16
	sequence, port uint32
	payload        []byte
}

// failure decodes an NLMSG_ERROR; nil if it is an acknowledgement.
func (m received) failure() (*kernelError, error) {
	const capped, extAck = 0x100, 0x200 // NLM_F_CAPPED, NLM_F_ACK_TLVS
	if len(m.payload) < 4+unix.SizeofNlMsghdr {
		return nil, errTruncated
	}
	code := int32(binary.NativeEndian.Uint32(m.payload))
	if code == 0 {
		return nil, nil
	}
	e := &kernelError{errno: syscall.Errno(-code), sequence: m.sequence}
	if m.flags&extAck == 0 {
		return e, nil
	}
	tail := m.payload[4+unix.SizeofNlMsghdr:]
	if m.flags&capped == 0 {
		original := int(binary.NativeEndian.Uint32(m.payload[4:]))
		if original < unix.SizeofNlMsghdr || padded(original)-unix.SizeofNlMsghdr > len(tail) {
			return e, nil
		}
		tail = tail[padded(original)-unix.SizeofNlMsghdr:]
	}
	const attrMsg, attrOffs = 1, 2 // NLMSGERR_ATTR_MSG, NLMSGERR_ATTR_OFFS
	err := eachAttribute(tail, func(typ uint16, data []byte) error {
		switch {
		case typ == attrMsg && len(data) > 0:
			e.text = string(data[:len(data)-1])
		case typ == attrOffs && len(data) >= 4:
			e.offset = int(binary.NativeEndian.Uint32(data))
		}
		return nil
	})
	return e, err
}
