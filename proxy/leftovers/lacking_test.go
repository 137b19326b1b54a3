package leftovers

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// A part that the kernel lacks is told from what cannot be looked at.
func TestLacking(t *testing.T) {
	for errno, want := range map[unix.Errno]bool{unix.EINVAL: true, unix.EOPNOTSUPP: true, unix.EPROTONOSUPPORT: true, unix.EPERM: false, unix.ENOENT: false, unix.EINTR: false} {
		if got := Lacking(fmt.Errorf("list the chains: %w", errno)); got != want {
			t.Errorf("%v: %t", errno, got)
		}
	}
	if Lacking(nil) {
		t.Error("no error is a lack")
	}
}
