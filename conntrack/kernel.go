package conntrack

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// The kernel's subsystem number of ctnetlink, the upper byte of its message types.
const ctnetlink = 1

// kernel is the table of a network namespace, over netlink. Removals have a socket of their own, kept open, because they
// happen in the middle of a dump.
type kernel struct {
	family  uint8
	removal *nl.SocketHandle
}

var _ table = (*kernel)(nil)

func openKernel(family proxy.Family) (table, error) {
	s, err := nl.Subscribe(unix.NETLINK_NETFILTER) // to no group
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	for _, set := range []func(*unix.Timeval) error{s.SetSendTimeout, s.SetReceiveTimeout} {
		if err := set(&nl.SocketTimeoutTv); err != nil {
			s.Close()
			return nil, fmt.Errorf("set timeout of netlink socket: %w", err)
		}
	}
	k := &kernel{family: unix.AF_INET, removal: &nl.SocketHandle{Socket: s}}
	if family == proxy.IPv6 {
		k.family = unix.AF_INET6
	}
	return k, nil
}

func (k *kernel) close() { k.removal.Close() }

func (k *kernel) request(operation, flags int, attributes []*nl.RtAttr) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(ctnetlink<<8|operation, flags)
	r.AddData(&nl.Nfgenmsg{NfgenFamily: k.family, Version: nl.NFNETLINK_V0})
	for _, a := range attributes {
		r.AddData(a)
	}
	return r
}

func (k *kernel) each(f filter, fn func(Flow) bool) error {
	err := k.dump(filterAttributes(f), fn)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		err = k.dump(nil, fn) // refused before the first flow: this kernel filters differently
	}
	if errors.Is(err, nl.ErrDumpInterrupted) || errors.Is(err, unix.EINTR) {
		return fmt.Errorf("list conntrack flows: %w", errInterrupted)
	}
	if err != nil {
		return fmt.Errorf("list conntrack flows: %w", err)
	}
	return nil
}

func (k *kernel) dump(attributes []*nl.RtAttr, fn func(Flow) bool) error {
	return k.request(nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP, attributes).ExecuteIter(unix.NETLINK_NETFILTER, 0,
		func(msg []byte) bool {
			f, ok := parseFlow(msg)
			return !ok || fn(f)
		})
}

func (k *kernel) remove(f Flow) (bool, error) {
	if !f.Original.valid() {
		panic("conntrack: deletion without a tuple would remove every flow")
	}
	r := k.request(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK, deleteAttributes(f))
	r.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: k.removal}
	_, err := r.Execute(unix.NETLINK_NETFILTER, 0)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}
