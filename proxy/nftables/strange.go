package nftables

import (
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

const action = "(drop|reject|(cluster|local)-[0-9]+(-masq)?)"

// The names of what processes of this layout make. A chain of a class or a set of an affinity timeout may have been left by an earlier
// one.
var (
	hookedChain = regexp.MustCompile("^(" + strings.Join([]string{natPrerouting, natOutput, natPostrouting, natInput}, "|") + ")$")
	plainChain  = regexp.MustCompile("^(" + strings.Join([]string{services, doDispatch, doReject, learn, slot0, slot0Cluster,
		"learn-sticky-[0-9]+", "(pick|stick)(-cluster)?-[0-9]+",
		"(restricted_)?(sticky_)?(pod_" + action + "_)?(node_" + action + "_)?(else_)?" + action}, "|") + ")$")
	stickySet = regexp.MustCompile("^sticky(-nodeports)?-[0-9]+$")
)

// strange tells that the table holds chains or sets that are not of our making. A chain may be hooked and drop everything although it has no
// rules; a set is only in the way of whoever looks. It does not look at rules and elements, which are flushed in any case.
func (k *kernel) strange() (strange bool, err error) {
	err = k.request(unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, func(*attributes) {}, func(_ received, attributes []byte) error {
		ours, err := ownChain(attributes)
		strange = strange || !ours
		return err
	})
	if err != nil || strange {
		return strange, err
	}
	known := map[string]bool{}
	for _, s := range newSets(capacity{}).all() {
		known[s.name] = true
	}
	err = k.request(unix.NFT_MSG_GETSET, unix.NLM_F_DUMP, func(a *attributes) { a.str(unix.NFTA_SET_TABLE, TableName) },
		func(_ received, attributes []byte) error {
			return eachAttribute(attributes, func(typ uint16, data []byte) error {
				name := strings.TrimRight(string(data), "\x00")
				// Names with two underscores are those of sets without one, which live and die with a rule.
				if typ == unix.NFTA_SET_NAME && !known[name] && !stickySet.MatchString(name) && !strings.HasPrefix(name, "__") {
					strange = true
				}
				return nil
			})
		})
	return strange, err
}

// ownChain tells that a chain is of our making, or of another table: the kernel lists those of all.
func ownChain(attributes []byte) (bool, error) {
	c, err := parseChain(attributes)
	names := plainChain
	if c.hooked {
		names = hookedChain
	}
	return c.table != TableName || names.MatchString(c.name), err
}
