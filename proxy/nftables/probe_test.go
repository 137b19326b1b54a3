package nftables

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// A kernel without some part is found out by what it refuses, and the error names the part.
func TestProbe(t *testing.T) {
	for _, f := range proxy.Families {
		for word, want := range map[string]string{
			"fib saddr type local":  "CONFIG_NFT_FIB_IPV4",
			"numgen random":         "CONFIG_NFT_NUMGEN",
			"masquerade":            "CONFIG_NFT_MASQ",
			"reject with tcp reset": "CONFIG_NFT_REJECT",
			"ct status":             "CONFIG_NFT_CT",
			"ct original":           "CONFIG_NFT_CT",
			"map @affinity":         "CONFIG_NFT_NAT", // the first dnat
			"update @affinity":      "",
			"meta priority set":     "",
		} {
			k := newFakeKernel(f)
			k.refuseRule = func(text string) syscall.Errno {
				if strings.Contains(text, word) {
					return unix.ENOENT
				}
				return 0
			}
			err := k.backend(Options{}).kernel.probe()
			if !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), word) {
				t.Errorf("%s, without %s: %v; want it to name the rule and %q", f, word, err, want)
			}
			if len(k.tables) > 0 {
				t.Errorf("%s, without %s: something is left", f, word)
			}
		}
		k := newFakeKernel(f)
		if err := k.backend(Options{}).kernel.probe(); err != nil {
			t.Errorf("%s: %v", f, err)
		}
		if len(k.tables) > 0 || k.batches != 1 {
			t.Errorf("%s: %d tables are left after %d batches", f, len(k.tables), k.batches)
		}
	}
}

// Chains of type nat may be missing as a whole.
func TestProbeHooks(t *testing.T) {
	k := newFakeKernel(proxy.IPv4)
	k.noHooks = true
	if err := k.backend(Options{}).kernel.probe(); !errors.Is(err, unix.EOPNOTSUPP) || !strings.Contains(err.Error(), "CONFIG_NFT_NAT") {
		t.Errorf("%v; want it to name CONFIG_NFT_NAT", err)
	}
}

// Without the capability New says so; it closes its socket.
func TestNewWithoutCapability(t *testing.T) {
	b := newFakeKernel(proxy.IPv4).backendThrough(Options{}, func(s socket) socket { return &failing{s, "answer", unix.EPERM} })
	if err := b.kernel.probe(); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Error(err)
	}
}

// The kernel under the tests takes everything, and a probe leaves nothing behind.
func TestKernelProbe(t *testing.T) {
	inKernel(t, func() {
		for _, f := range proxy.Families {
			newTestBackend(t, Options{Family: f})
		}
		if got := nft(t, "list", "tables"); got != "" {
			t.Errorf("left: %s", got)
		}
	})
}
