package compat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	lib "github.com/google/nftables"
	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// Reader reads tables of one family, such as "nat", in the network namespace of the calling thread. It keeps nothing open.
type Reader struct {
	family proxy.Family
}

// New returns a Reader.
func New(f proxy.Family) *Reader { return &Reader{f} }

// Chain is a chain of a table; Base tells that the kernel leads packets to it, rather than a rule.
type Chain struct {
	Table, Name string
	Base        bool
}

// Chains lists the chains of some tables, in no order. A table that does not exist has none.
func (r *Reader) Chains(tables ...string) ([]Chain, error) {
	c, err := lib.New()
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	all, err := c.ListChainsOfTableFamily(r.libFamily())
	if err != nil {
		return nil, fmt.Errorf("list the chains of %s: %w", r.family, err)
	}
	var out []Chain
	for _, x := range all {
		if slices.Contains(tables, x.Table.Name) {
			out = append(out, Chain{x.Table.Name, x.Name, x.Hooknum != nil})
		}
	}
	return out, nil
}

// Rules lists the rules of a chain that exists, in their order.
func (r *Reader) Rules(table, chain string) ([]Rule, error) {
	c, err := lib.New()
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	t, x := r.chain(table, chain)
	rules, err := c.GetRules(t, x)
	if err != nil {
		return nil, fmt.Errorf("list the rules of chain %s of table %s for %s: %w", chain, table, r.family, err)
	}
	unknown, err := r.unreadable(table, chain)
	if err != nil {
		return nil, err
	}
	out := make([]Rule, len(rules))
	for i, rule := range rules {
		out[i] = ruleOf(table, chain, rule, unknown[rule.Handle])
	}
	return out, nil
}

// Delete removes rules by their handles, all in one transaction.
func (r *Reader) Delete(rules ...Rule) error {
	return commit(r, "delete", "rules", rules, func(c *lib.Conn, rule Rule) error {
		t, x := r.chain(rule.Table, rule.Chain)
		return c.DelRule(&lib.Rule{Table: t, Chain: x, Handle: rule.Handle})
	})
}

// Empty removes the rules of chains, all in one transaction.
func (r *Reader) Empty(chains ...Chain) error {
	return commit(r, "empty", "chains", chains, func(c *lib.Conn, chain Chain) error {
		_, x := r.chain(chain.Table, chain.Name)
		c.FlushChain(x)
		return nil
	})
}

// DeleteChains removes chains that are empty and to which no rule leads, all in one transaction.
func (r *Reader) DeleteChains(chains ...Chain) error {
	return commit(r, "delete", "chains", chains, func(c *lib.Conn, chain Chain) error {
		_, x := r.chain(chain.Table, chain.Name)
		c.DelChain(x)
		return nil
	})
}

// commit does the same with all of a list in one transaction.
func commit[T any](r *Reader, verb, what string, list []T, do func(*lib.Conn, T) error) error {
	c, err := lib.New()
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	for _, x := range list {
		if err := do(c, x); err != nil {
			return fmt.Errorf("%s one of %d %s for %s: %w", verb, len(list), what, r.family, err)
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("%s %d %s for %s: %w", verb, len(list), what, r.family, err)
	}
	return nil
}

func (r *Reader) libFamily() lib.TableFamily {
	if r.family == proxy.IPv6 {
		return lib.TableFamilyIPv6
	}
	return lib.TableFamilyIPv4
}

func (r *Reader) chain(table, chain string) (*lib.Table, *lib.Chain) {
	t := &lib.Table{Name: table, Family: r.libFamily()}
	return t, &lib.Chain{Name: chain, Table: t}
}

// Generation is the number of the last transaction of anybody that changed nftables in the namespace: while it is the same, nothing has changed.
func Generation() (uint32, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, fmt.Errorf("open a netlink socket: %w", err)
	}
	defer unix.Close(fd)
	n, err := askGeneration(fd)
	if err != nil {
		return 0, fmt.Errorf("ask for the generation of nftables: %w", err)
	}
	return n, nil
}

// A message of nfnetlink has a header of 16 bytes, one of 4 with family, version and resource, and then attributes.
const headers = 16 + 4

func askGeneration(fd int) (uint32, error) {
	request := make([]byte, headers)
	binary.NativeEndian.PutUint32(request, headers)
	binary.NativeEndian.PutUint16(request[4:], unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		return 0, err
	}
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return 0, err
	}
	return generationIn(answer[:n])
}

// errAnswer tells of an answer that has no generation in it.
var errAnswer = errors.New("the answer has none")

func generationIn(b []byte) (uint32, error) {
	if len(b) < headers {
		return 0, errAnswer
	}
	if binary.NativeEndian.Uint16(b[4:]) == unix.NLMSG_ERROR {
		return 0, unix.Errno(-int32(binary.NativeEndian.Uint32(b[16:])))
	}
	for b = b[headers:]; len(b) >= 4; {
		length, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if length < 4 || length > len(b) {
			break
		}
		if kind == unix.NFTA_GEN_ID && length == 8 {
			return binary.BigEndian.Uint32(b[4:]), nil
		}
		b = b[min(len(b), (length+3)&^3):]
	}
	return 0, errAnswer
}
