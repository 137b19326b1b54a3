package nftables

import (
	"errors"
	"fmt"
	"strings"

	"turnout/proxy"
)

// probe finds out whether the kernel takes everything that a table is made of, by a transaction that makes one of another name and
// deletes it again: no packet ever meets it. Versions tell nothing: distributions build kernels with parts missing, and port
// features back.
func (k *kernel) probe() error {
	mark := uint32(1) << 14
	t := newTable(&proxy.State{Family: k.family, Node: &proxy.Node{MasqueradeMark: mark}}, nil, nil)
	tx := t.build(replace)
	everything := class{sticky: true, restricted: true, endpoints: [2]int{2, 2}}
	everything.actions = [3]proxy.Action{{}, {Masquerade: true}, {Pool: proxy.Local}}
	if err := t.addClass(tx, everything); err != nil {
		return err
	}
	t.addSticky(tx, affinityDefault)
	return k.try(tx)
}

// try has the kernel carry out a transaction in a table of another name, and deletes that.
func (k *kernel) try(tx *transaction) error {
	batch, err := k.encoder.encodeProbe(tx)
	if err != nil {
		return err
	}
	err = k.exchange(batch)
	if r, ok := errors.AsType[*refusal](err); ok {
		return fmt.Errorf("the kernel refuses to %w%s", err, missing(r.failures[0].what))
	}
	return err
}

// missing says what the kernel was probably built without.
func missing(what string) string {
	for _, hint := range []struct{ word, option string }{
		{"fib ", "CONFIG_NFT_FIB_IPV4 and CONFIG_NFT_FIB_IPV6 (module nft_fib)"},
		{"numgen ", "CONFIG_NFT_NUMGEN (module nft_numgen)"},
		{"masquerade", "CONFIG_NFT_MASQ (module nft_masq)"},
		{"reject", "CONFIG_NFT_REJECT (module nft_reject)"},
		{"dnat ip", "CONFIG_NFT_NAT (module nft_nat)"},
		{"ct ", "CONFIG_NFT_CT (module nft_ct)"},
		{"add chain nat-", "CONFIG_NFT_NAT (module nft_chain_nat)"},
	} {
		if strings.Contains(what, hint.word) {
			return "; it probably lacks " + hint.option
		}
	}
	return ""
}
