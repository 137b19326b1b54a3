package leftovers

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Lacking tells that a request failed because the kernel has no part that would answer it, such as nftables, ipsets or packet counters: then it has
// nothing of these either. Its netfilter sockets say EINVAL to what nobody listens to, and those that cannot be had EPROTONOSUPPORT.
func Lacking(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT)
}
