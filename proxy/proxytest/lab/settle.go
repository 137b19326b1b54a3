package lab

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// settleTime is far more than the kernel needs, even on a busy machine.
const settleTime = 10 * time.Second

// settle waits until packets can flow. The kernel finishes two things in the background: a link whose other end came up
// later drops packets until then, and an IPv6 address cannot be used before its route exists.
func (l *Lab) settle() error {
	deadline := time.Now().Add(settleTime)
	for _, h := range l.hosts {
		for {
			missing, err := h.unsettled()
			if errors.Is(err, netlink.ErrDumpInterrupted) { // by the very changes that are waited for
				missing, err = "links are still changing", nil
			}
			if err != nil {
				return fmt.Errorf("look at links of %s: %w", h.Name, err)
			}
			if missing == "" {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s: %s after %v", h.Name, missing, settleTime)
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// unsettled names a link or address that cannot be used yet, or "".
func (h *Host) unsettled() (missing string, err error) {
	err = h.netlink(func(nl *netlink.Handle) error {
		links, err := nl.LinkList()
		if err != nil {
			return err
		}
		for _, link := range links {
			if a := link.Attrs(); link.Type() == "veth" && a.OperState != netlink.OperUp {
				missing = "link " + a.Name + " is " + a.OperState.String()
				return nil
			}
		}
		addrs, err := nl.AddrList(nil, netlink.FAMILY_V6)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if a.IP.IsLinkLocalUnicast() {
				continue
			}
			routes, err := nl.RouteGet(a.IP)
			if err != nil || len(routes) == 0 || routes[0].Type != unix.RTN_LOCAL {
				missing = "address " + a.IP.String() + " has no route"
				return nil
			}
		}
		return nil
	})
	return missing, err
}
