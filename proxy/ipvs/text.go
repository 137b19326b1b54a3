package ipvs

import (
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"turnout/proxy"
	"turnout/proxy/ipvs/genl"
	"turnout/proxy/nftables"
)

// WriteText writes what a node is given for a State that has nothing yet: the addresses of the interface as commands of ip, the virtual servers as ipvsadm
// saves them, and the table as nft lists it. The error is that of w.
func WriteText(w io.Writer, o Options, s *proxy.State) error {
	o.setDefaults()
	var b strings.Builder
	all := newRenderer(&o, s.Node).all(s)
	addrs := map[netip.Addr]bool{}
	for _, x := range all {
		if x.address {
			addrs[x.At.Addr()] = true
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(addrs), netip.Addr.Compare) {
		fmt.Fprintf(&b, "ip address add %s dev %s\n", netip.PrefixFrom(a, a.BitLen()), Device)
	}
	for _, x := range all {
		b.WriteString("-A " + serverText(x.Server) + "\n")
		for _, at := range x.pool {
			fmt.Fprintf(&b, "-a %s -r %s -m -w 1\n", keyText(x.Key), at)
		}
	}
	if err := nftables.WriteGateText(&b, s); err != nil {
		return err
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// keyText names a virtual server by ipvsadm's options.
func keyText(k genl.Key) string {
	option := map[proxy.Protocol]string{proxy.TCP: "-t", proxy.UDP: "-u", proxy.SCTP: "--sctp-service"}[k.Protocol]
	return option + " " + k.At.String()
}

func serverText(x genl.Server) string {
	text := keyText(x.Key) + " -s " + x.Scheduler
	if x.Persistence > 0 {
		text += fmt.Sprintf(" -p %d", x.Persistence/time.Second)
	}
	if x.Scheduler == "mh" && x.Flags&genl.SchedulerFlag2 != 0 {
		text += " -b mh-port"
	}
	return text
}
