package compat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Expressions that iptables-nft 1.8.9 reads, by the kernel's names. Of some it reads only what strange lets pass. Later versions read some more.
var readable = []string{"match", "target", "payload", "meta", "cmp", "bitwise", "counter", "immediate", "lookup", "limit", "log"}

// What iptables-nft 1.8.9 can ask of a packet by the expression meta; all it can set is nftrace, for its target TRACE.
var readableMeta = []expr.MetaKey{expr.MetaKeyL4PROTO, expr.MetaKeyMARK, expr.MetaKeyIIF, expr.MetaKeyIIFNAME, expr.MetaKeyOIF, expr.MetaKeyOIFNAME, expr.MetaKeyPKTTYPE}

// strange returns the name of an expression that iptables-nft knows, but not in this form; "" for others.
func strange(e expr.Any) string {
	switch e := e.(type) {
	case *expr.Log:
		if e.Key&(1<<unix.NFTA_LOG_GROUP) == 0 { // without a group, as target NFLOG has
			return "log"
		}
	case *expr.Meta:
		if e.SourceRegister && e.Key != expr.MetaKeyNFTRACE || !e.SourceRegister && !slices.Contains(readableMeta, e.Key) {
			return "meta"
		}
	}
	return ""
}

// unreadable lists, by handle, the expressions of a chain's rules that iptables-nft does not know. The kernel is asked for their names, since the library leaves out
// the expressions that it has no type for.
func (r *Reader) unreadable(table, chain string) (map[uint64][]string, error) {
	family := uint8(unix.NFPROTO_IPV4)
	if r.family.Bits() == 128 {
		family = unix.NFPROTO_IPV6
	}
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	request.AddData(nl.NewRtAttr(unix.NFTA_RULE_TABLE, nl.ZeroTerminated(table)))
	request.AddData(nl.NewRtAttr(unix.NFTA_RULE_CHAIN, nl.ZeroTerminated(chain)))
	messages, err := request.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) { // by a change: what is asked for is there all the same, or gone
		return nil, fmt.Errorf("list the expressions of chain %s of table %s for %s: %w", chain, table, r.family, err)
	}
	out := map[uint64][]string{}
	for _, m := range messages {
		handle, names := namesIn(m)
		for _, name := range names {
			if !slices.Contains(readable, name) {
				out[handle] = append(out[handle], name)
			}
		}
	}
	return out, nil
}

// namesIn reads a rule's handle and its expressions' names from a message; none if it is not well formed.
func namesIn(m []byte) (handle uint64, names []string) {
	for kind, rule := range attributes(m[min(len(m), nl.SizeofNfgenmsg):]) {
		switch {
		case kind == unix.NFTA_RULE_HANDLE && len(rule) == 8:
			handle = binary.BigEndian.Uint64(rule)
		case kind == unix.NFTA_RULE_EXPRESSIONS:
			for _, element := range attributes(rule) {
				for kind, value := range attributes(element) {
					if kind == unix.NFTA_EXPR_NAME {
						names = append(names, strings.TrimRight(string(value), "\x00"))
					}
				}
			}
		}
	}
	return handle, names
}

// attributes walks through attributes (struct nlattr), up to one that is not whole. Their kinds are without flags.
func attributes(b []byte) func(yield func(kind uint16, value []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofNlAttr {
			length, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
			if length < unix.SizeofNlAttr || length > len(b) || !yield(kind&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofNlAttr:length]) {
				return
			}
			b = b[min(len(b), (length+3)&^3):]
		}
	}
}
