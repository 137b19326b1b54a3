package nfacct

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The subsystem, the upper byte of its message types (NFNL_SUBSYS_ACCT in include/uapi/linux/netfilter/nfnetlink.h of the kernel).
const subsystem = 7

// Messages and attributes, of include/uapi/linux/netfilter/nfnetlink_acct.h.
const (
	messageNew    = 0 // NFNL_MSG_ACCT_NEW
	messageGet    = 1 // NFNL_MSG_ACCT_GET
	messageDelete = 3 // NFNL_MSG_ACCT_DEL

	attributeName    = 1 // NFACCT_NAME
	attributePackets = 2 // NFACCT_PKTS, big endian
)

// maxName is the length of the longest name, in bytes (NFACCT_NAME_MAX without the zero at its end).
const maxName = 31

// Ensure makes a counter in the network namespace of the calling thread, unless there is one of that name, which goes on from where it is. The error
// wraps that of the kernel, which is EINVAL or EOPNOTSUPP where it has no counters.
func Ensure(name string) error {
	_, err := request(messageNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, name)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) { // the kernel says the former
		return nil
	}
	if err != nil {
		return fmt.Errorf("make the packet counter %s: %w", name, err)
	}
	return nil
}

// Packets returns how many packets a counter has counted since it was made. The error wraps fs.ErrNotExist if there is none of that name.
func Packets(name string) (uint64, error) {
	answers, err := request(messageGet, unix.NLM_F_ACK, name)
	if err != nil {
		return 0, fmt.Errorf("read the packet counter %s: %w", name, err)
	}
	for _, a := range answers {
		if n, ok := parse(a); ok {
			return n, nil
		}
	}
	return 0, fmt.Errorf("read the packet counter %s: the kernel's answer has no number of packets", name)
}

// Delete removes a counter. The error wraps fs.ErrNotExist if there is none of that name, and EBUSY if a rule counts with it.
func Delete(name string) error {
	if name == "" { // which would be all of them, those of others included
		return errors.New("delete a packet counter: no name is given")
	}
	if _, err := request(messageDelete, unix.NLM_F_ACK, name); err != nil {
		return fmt.Errorf("delete the packet counter %s: %w", name, err)
	}
	return nil
}

func request(message, flags int, name string) ([][]byte, error) {
	if len(name) > maxName {
		return nil, fmt.Errorf("the name has %d bytes, %d are possible", len(name), maxName)
	}
	r := nl.NewNetlinkRequest(subsystem<<8|message, flags)
	r.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	r.AddData(nl.NewRtAttr(attributeName, nl.ZeroTerminated(name)))
	return r.Execute(unix.NETLINK_NETFILTER, 0)
}

// parse reads the number of packets from a message of the kernel, which begins with the netfilter header.
func parse(message []byte) (packets uint64, ok bool) {
	if len(message) < nl.SizeofNfgenmsg {
		return 0, false
	}
	attributes, err := nl.ParseRouteAttr(message[nl.SizeofNfgenmsg:])
	if err != nil {
		return 0, false
	}
	for _, a := range attributes {
		if a.Attr.Type&nl.NLA_TYPE_MASK == attributePackets && len(a.Value) == 8 {
			return binary.BigEndian.Uint64(a.Value), true
		}
	}
	return 0, false
}
