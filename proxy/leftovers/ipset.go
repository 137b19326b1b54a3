package leftovers

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ipsetNames are the sets of kube-proxy's mode ipvs for IPv4.
var ipsetNames = []string{
	"KUBE-LOOP-BACK", "KUBE-CLUSTER-IP", "KUBE-EXTERNAL-IP", "KUBE-EXTERNAL-IP-LOCAL",
	"KUBE-LOAD-BALANCER", "KUBE-LOAD-BALANCER-FW", "KUBE-LOAD-BALANCER-LOCAL", "KUBE-LOAD-BALANCER-SOURCE-CIDR", "KUBE-LOAD-BALANCER-SOURCE-IP",
	"KUBE-NODE-PORT-TCP", "KUBE-NODE-PORT-LOCAL-TCP", "KUBE-NODE-PORT-UDP", "KUBE-NODE-PORT-LOCAL-UDP",
	"KUBE-NODE-PORT-SCTP-HASH", "KUBE-NODE-PORT-LOCAL-SCTP-HASH", "KUBE-HEALTH-CHECK-NODE-PORT", "KUBE-IPVS-IPS",
}

// maxIPSetName is how long a set's name can be (IPSET_MAXNAMELEN, which counts the zero behind it).
const maxIPSetName = nl.IPSET_MAXNAMELEN - 1

// ownsIPSet tells that a set is one of kube-proxy's: of those above, or of their twins for IPv6, whose names are cut where they are too long.
// Never are kube-router's KUBE-SRC-* and KUBE-DST-*.
func ownsIPSet(name string) bool {
	return slices.ContainsFunc(ipsetNames, func(n string) bool {
		twin := strings.Replace(n, "KUBE-", "KUBE-6-", 1)
		return name == n || name == twin[:min(len(twin), maxIPSetName)]
	})
}

// An ipset is a set of kube-proxy's.
type ipset struct {
	name       string
	references uint32 // how many rules and other sets it is used by
}

func (s ipset) object() Object { return Object{Kind: "ipset", Name: s.name} }

// findIPSets looks for the sets of kube-proxy's mode ipvs. It reads their names and heads, not what is in them, loads no module, and needs
// CAP_NET_ADMIN.
func findIPSets() ([]ipset, error) {
	if !hasIPSet() {
		return nil, nil
	}
	req := ipsetRequest(nl.IPSET_CMD_LIST)
	req.AddData(nl.NewRtAttr(nl.IPSET_ATTR_FLAGS|unix.NLA_F_NET_BYTEORDER, binary.BigEndian.AppendUint32(nil, listHeader)))
	answers, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if Lacking(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the ipsets: %w", err)
	}
	var out []ipset
	for _, a := range answers {
		s, err := parseIPSet(a)
		if err != nil {
			return nil, fmt.Errorf("list the ipsets: %w", err)
		}
		if ownsIPSet(s.name) {
			out = append(out, s)
		}
	}
	return out, nil
}

// listHeader asks for a set without its elements (IPSET_FLAG_LIST_HEADER).
const listHeader = 1 << 2

// hasIPSet tells whether the kernel has loaded ipset, which to ask for it would do. Where that cannot be seen it is asked.
func hasIPSet() bool {
	if _, err := os.Stat("/sys/module"); err != nil {
		return true
	}
	_, err := os.Stat("/sys/module/ip_set")
	return !errors.Is(err, fs.ErrNotExist)
}

func ipsetRequest(command int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(command|unix.NFNL_SUBSYS_IPSET<<8, nl.GetIpsetFlags(command))
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: nl.NFNETLINK_V0})
	req.AddData(nl.NewRtAttr(nl.IPSET_ATTR_PROTOCOL, nl.Uint8Attr(nl.IPSET_PROTOCOL)))
	return req
}

// parseIPSet reads one answer of the kernel: a netfilter head, then attributes.
func parseIPSet(b []byte) (s ipset, err error) {
	if len(b) < nl.SizeofNfgenmsg {
		return s, fmt.Errorf("an answer of %d bytes", len(b))
	}
	attrs, err := nl.ParseRouteAttr(b[nl.SizeofNfgenmsg:])
	if err != nil {
		return s, err
	}
	for _, a := range attrs {
		switch a.Attr.Type & nl.NLA_TYPE_MASK {
		case nl.IPSET_ATTR_SETNAME:
			s.name = text(a.Value)
		case nl.IPSET_ATTR_DATA:
			inner, err := nl.ParseRouteAttr(a.Value)
			if err != nil {
				return s, err
			}
			for _, i := range inner {
				if i.Attr.Type&nl.NLA_TYPE_MASK == nl.IPSET_ATTR_REFERENCES && len(i.Value) >= 4 {
					s.references = binary.BigEndian.Uint32(i.Value)
				}
			}
		}
	}
	return s, nil
}

// errIPSetBusy is IPSET_ERR_BUSY: rules or other sets refer to the set.
const errIPSetBusy = unix.Errno(nl.IPSET_ERR_BUSY)

// forgotten is how long the kernel may take to give up what deleted rules referred to: it does that in the background.
const forgotten = time.Second

// whileBusy tries something until a time again as long as the kernel says that it is in use.
func whileBusy(end time.Time, busy unix.Errno, try func() error) error {
	for {
		err := try()
		if !errors.Is(err, busy) || time.Now().After(end) {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// removeIPSets destroys sets, after the rules that refer to them are gone. What is gone already is no error.
func removeIPSets(sets []ipset) error {
	var errs []error
	end := time.Now().Add(forgotten) // of all, as their rules went together
	for _, s := range sets {
		err := whileBusy(end, errIPSetBusy, func() error { return destroyIPSet(s) })
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
		case errors.Is(err, errIPSetBusy):
			errs = append(errs, fmt.Errorf("destroy ipset %s: a rule or a set of another program refers to it", s.name))
		default:
			errs = append(errs, fmt.Errorf("destroy ipset %s: %w", s.name, err))
		}
	}
	return errors.Join(errs...)
}

func destroyIPSet(s ipset) error {
	req := ipsetRequest(nl.IPSET_CMD_DESTROY)
	req.AddData(nl.NewRtAttr(nl.IPSET_ATTR_SETNAME, nl.ZeroTerminated(s.name)))
	_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	return err
}
