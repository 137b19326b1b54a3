package nftables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// Interference is a change of one of our tables by another process.
type Interference struct {
	Family proxy.Family
	// What was changed, such as "delete rule"; "unknown" if the kernel dropped its report for lack of buffer.
	What string
	// Process and PID name the writer; they are empty if the kernel did not tell. PID is that of a thread.
	Process string
	PID     uint32
}

// Watch calls fn for each transaction of another process that touches a table of ours, until ctx ends. own are the ports of this
// process's Backends (Backend.PortID); the kernel does not even deliver what they did. An error means that changes can't be watched.
func Watch(ctx context.Context, own []uint32, fn func(Interference)) error {
	return watchTable(ctx, TableName, own, fn)
}

// WatchGate does the same for the tables of Gates, own being theirs.
func WatchGate(ctx context.Context, own []uint32, fn func(Interference)) error {
	return watchTable(ctx, GateTable, own, fn)
}

func watchTable(ctx context.Context, table string, own []uint32, fn func(Interference)) error {
	s, err := openSocket(unix.NFNLGRP_NFTABLES)
	if err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	if err := errors.Join(s.ignore(own), unix.SetNonblock(s.fd, true)); err != nil {
		return errors.Join(fmt.Errorf("watch nftables: %w", err), s.close())
	}
	// As a file the socket takes part in the runtime's polling, and closing it ends a read.
	file := os.NewFile(uintptr(s.fd), "nftables monitor")
	stop := context.AfterFunc(ctx, func() { _ = file.Close() })
	defer func() {
		if stop() {
			_ = file.Close()
		}
	}()
	conn, err := file.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	m := monitor{table: table, own: own, report: fn, buffer: make([]byte, 1<<16)}
	for {
		n, err := m.read(conn.Read)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			m.overrun()
		case err != nil:
			return fmt.Errorf("watch nftables: %w", err)
		default:
			m.datagram(m.buffer[:n])
		}
	}
}

// ignore attaches a classic BPF program that drops the events of changes made through these ports: a bulk load makes one event an
// element.
func (s *netlinkSocket) ignore(ports []uint32) error {
	const portOffset = 12 // of nlmsg_pid in struct nlmsghdr
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: portOffset}}
	for i, p := range ports {
		// BPF loads words as big-endian.
		k := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, p))
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jt: uint8(len(ports) - i)})
	}
	program = append(program, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1}, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K})
	return unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: unsafe.SliceData(program)})
}

// A monitor reads the kernel's reports of transactions. A report is a message for each object that changed, and one that names the
// writer (NEWGEN).
type monitor struct {
	table   string
	own     []uint32
	report  func(Interference)
	buffer  []byte
	pending []Interference // of the transaction being read, one a family
}

func (m *monitor) read(wait func(func(uintptr) bool) error) (n int, err error) {
	waitErr := wait(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), m.buffer, unix.MSG_DONTWAIT)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	return n, errors.Join(waitErr, err)
}

func (m *monitor) overrun() {
	m.pending = nil
	for _, f := range proxy.Families {
		m.report(Interference{Family: f, What: "unknown"})
	}
}

func (m *monitor) datagram(b []byte) {
	// A report that cannot be read is as good as one that was lost.
	if err := eachMessage(b, m.message); err != nil {
		m.overrun()
	}
}

func (m *monitor) message(r received) error {
	if r.typ>>8 != unix.NFNL_SUBSYS_NFTABLES || slices.Contains(m.own, r.port) {
		return nil
	}
	if len(r.payload) < sizeofNfgenmsg {
		return errTruncated
	}
	attributes := r.payload[sizeofNfgenmsg:]
	if r.typ&0xff == unix.NFT_MSG_NEWGEN {
		return m.generation(attributes)
	}
	f, ok := familyOf(r.payload[0])
	if !ok || slices.ContainsFunc(m.pending, func(i Interference) bool { return i.Family == f }) {
		return nil
	}
	// The name of the table is attribute 1 of every kind of object.
	return eachAttribute(attributes, func(typ uint16, data []byte) error {
		if typ == unix.NFTA_TABLE_NAME && strings.TrimRight(string(data), "\x00") == m.table {
			m.pending = append(m.pending, Interference{Family: f, What: messageName(r.typ & 0xff)})
		}
		return nil
	})
}

// generation ends a transaction's report.
func (m *monitor) generation(attributes []byte) error {
	var pid uint32
	var name string
	err := eachAttribute(attributes, func(typ uint16, data []byte) error {
		switch {
		case typ == unix.NFTA_GEN_PROC_PID && len(data) == 4:
			pid = binary.BigEndian.Uint32(data)
		case typ == unix.NFTA_GEN_PROC_NAME:
			name = strings.TrimRight(string(data), "\x00")
		}
		return nil
	})
	for _, i := range m.pending {
		i.PID, i.Process = pid, name
		m.report(i)
	}
	m.pending = nil
	return err
}

func familyOf(nfproto uint8) (proxy.Family, bool) {
	switch nfproto {
	case unix.NFPROTO_IPV4:
		return proxy.IPv4, true
	case unix.NFPROTO_IPV6:
		return proxy.IPv6, true
	}
	return 0, false
}

func messageName(typ uint16) string {
	switch typ {
	case unix.NFT_MSG_NEWTABLE:
		return "add table"
	case unix.NFT_MSG_DELTABLE:
		return "delete table"
	case unix.NFT_MSG_NEWCHAIN:
		return "add chain"
	case unix.NFT_MSG_DELCHAIN:
		return "delete chain"
	case unix.NFT_MSG_NEWRULE:
		return "add rule"
	case unix.NFT_MSG_DELRULE:
		return "delete rule"
	case unix.NFT_MSG_NEWSET:
		return "add set"
	case unix.NFT_MSG_DELSET:
		return "delete set"
	case unix.NFT_MSG_NEWSETELEM:
		return "add element"
	case unix.NFT_MSG_DELSETELEM:
		return "delete element"
	}
	return fmt.Sprintf("message %d", typ)
}
