package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// removeTable deletes the table, whoever made it, without a packet noticing. To delete it at once would not do: what is in the middle of its rules finds its
// maps empty from that moment, but not its sets (nft_map_deactivate), and takes a port that is served for one that is to be rejected.
func (k *kernel) removeTable() error {
	if err := k.disarm(); err != nil {
		return err
	}
	if err := k.exchange(k.encoder.encodeDelete()); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete table %s for %s: %w", k.encoder.tableName(), k.family, err)
	}
	return nil
}

// disarm deletes the chains by which packets come to the table, and waits for those that are in it. Connections get a new destination at the first hooks and
// a new source at the later ones, so these stay until nothing is between them.
func (k *kernel) disarm() error {
	for _, these := range []func(hook uint32) bool{translates, func(uint32) bool { return true }} {
		deleted, err := k.deleteHooked(these)
		if err != nil {
			return fmt.Errorf("delete the chains of table %s for %s that packets come by: %w", k.encoder.tableName(), k.family, err)
		}
		if deleted {
			k.wait()
		}
	}
	return nil
}

// translates tells that new connections get their destination at a hook.
func translates(hook uint32) bool {
	return hook == unix.NF_INET_PRE_ROUTING || hook == unix.NF_INET_LOCAL_OUT
}

// deleteHooked deletes the table's chains at some hooks, all in one step, and tells whether there were any.
func (k *kernel) deleteHooked(at func(hook uint32) bool) (deleted bool, err error) {
	for range dumpAttempts {
		chains, err := k.hookedChains()
		if err != nil {
			return false, err
		}
		var names []string
		for _, c := range chains {
			if at(c.hook) {
				names = append(names, c.name)
			}
		}
		if len(names) == 0 {
			return false, nil
		}
		if err = k.exchange(k.encoder.encodeDisarm(names)); !errors.Is(err, unix.ENOENT) { // somebody else was faster with one of them
			return true, err
		}
	}
	return true, nil
}

// hookedChains lists the table's chains that packets come by; none if there is no table.
func (k *kernel) hookedChains() (out []chainHeader, err error) {
	for range dumpAttempts {
		out = nil
		err = k.request(unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, func(*attributes) {}, func(_ received, attributes []byte) error {
			c, err := parseChain(attributes)
			if c.hooked && c.table == k.encoder.tableName() {
				out = append(out, c)
			}
			return err
		})
		if !errors.Is(err, errInterrupted) {
			return out, err
		}
	}
	return out, nil // somebody changes chains without end; these are some, and perhaps all
}

// A chainHeader is what the kernel tells of a chain, without its rules.
type chainHeader struct {
	table, name string
	hooked      bool
	hook        uint32 // NF_INET_PRE_ROUTING and so on, if it is hooked
}

func parseChain(attributes []byte) (c chainHeader, err error) {
	err = eachAttribute(attributes, func(typ uint16, data []byte) error {
		switch typ {
		case unix.NFTA_CHAIN_TABLE:
			c.table = strings.TrimRight(string(data), "\x00")
		case unix.NFTA_CHAIN_NAME:
			c.name = strings.TrimRight(string(data), "\x00")
		case unix.NFTA_CHAIN_HOOK:
			c.hooked = true
			return eachAttribute(data, func(typ uint16, data []byte) error {
				if typ == unix.NFTA_HOOK_HOOKNUM && len(data) == 4 {
					c.hook = binary.BigEndian.Uint32(data)
				}
				return nil
			})
		}
		return nil
	})
	return c, err
}
