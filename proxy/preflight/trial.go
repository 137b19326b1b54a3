package preflight

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/config"
	"turnout/proxy/iptables"
	"turnout/proxy/ipvs"
	"turnout/proxy/nftables"
)

// trials tries a mode for each family.
func (g *gatherer) trials(ctx context.Context, m config.Mode) {
	for i, f := range g.facts.Families {
		if m != config.IPTables {
			g.facts.Trials[m] = append(g.facts.Trials[m], g.trial(ctx, m, f, ""))
		} else if p := &g.facts.Programs[i]; p.Err == nil {
			g.facts.Trials[m] = append(g.facts.Trials[m], g.tryPrograms(ctx, p))
		}
	}
}

// tryPrograms tries those of iptables, and those of variant legacy if the variant nft does not work, as the proxy does it.
func (g *gatherer) tryPrograms(ctx context.Context, p *Iptables) Trial {
	t := g.trial(ctx, config.IPTables, p.Family, p.Choice.Variant)
	if t.Err == nil || p.Choice.Variant != iptables.NFT {
		return t
	}
	legacy, err := iptables.Open(ctx, iptables.Options{Family: p.Family, Variant: iptables.Legacy, Path: g.Path, Timeout: g.Timeout})
	if err != nil {
		return t
	}
	other := g.trial(ctx, config.IPTables, p.Family, iptables.Legacy)
	if other.Err != nil || other.Unseen != nil {
		return t
	}
	p.Choice = legacy.Choice()
	p.Choice.Reason = fmt.Sprintf("the variant nft cannot be used (%v)", t.Err)
	return other
}

func (g *gatherer) trial(ctx context.Context, m config.Mode, f proxy.Family, variant iptables.Variant) Trial {
	t := Trial{Family: f, Variant: variant}
	if t.Idle = g.facts.Modules.Idle(needOf(m, f, variant, g.facts.Scheduler).all()); len(t.Idle) > 0 {
		return t
	}
	if m == config.IPVS && !atLeast(g.facts.Kernel, 5, 11) {
		t.Unseen = errors.New("before Linux 5.11, a network namespace that has used IPVS may never end")
		return t
	}
	t.Unseen = inNamespace(func() { t.Lacks, t.Err = g.try(ctx, m, f, variant) })
	return t
}

// try has the kernel take what a mode needs, and returns what it lacks for some Services.
func (g *gatherer) try(ctx context.Context, m config.Mode, f proxy.Family, variant iptables.Variant) (lacks []string, err error) {
	switch m {
	case config.NFTables:
		b, err := nftables.New(nftables.Options{Family: f, Protect: g.protect})
		if err != nil {
			return nil, err
		}
		return nil, b.Close()
	case config.IPTables:
		b, err := iptables.New(ctx, iptables.Options{Family: f, Variant: variant, Path: g.Path, Timeout: g.Timeout})
		if err != nil {
			return nil, err
		}
		return b.Choice().Lacks, nil
	}
	return nil, errors.Join(tryGate(f), tryVirtualServer(f, g.facts.Scheduler), tryDummy())
}

// tryGate makes the table that mode ipvs has beside IPVS.
func tryGate(f proxy.Family) error {
	gate, err := nftables.OpenGate(f)
	if err != nil {
		return err
	}
	defer gate.Close()
	_, _, err = gate.Admit(&proxy.State{Family: f, Node: &proxy.Node{MasqueradeMark: 1 << 14}}, func(netip.Addr) bool { return false })
	return err
}

func tryVirtualServer(f proxy.Family, scheduler string) error {
	b, err := ipvs.New(ipvs.Options{Family: f, Scheduler: scheduler, Sysctl: taken{}})
	if err != nil {
		return err
	}
	return b.Close()
}

// taken is a Sysctl that has every setting and takes every value: those of the namespace do not matter, and may be read-only.
type taken struct{}

func (taken) Read(string) (string, error) { return "", nil }
func (taken) Write(string, string) error  { return nil }

func tryDummy() error {
	err := netlink.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: ipvs.Device}})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make a dummy interface such as %s (module dummy): %w", ipvs.Device, err)
	}
	return nil
}

// inNamespace runs fn in a network namespace that ends with it. The error says why there can be none.
func inNamespace(fn func()) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine, and the namespace with the thread
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			fn()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("make a network namespace for trials (needs CAP_SYS_ADMIN): %w", err)
	}
	return nil
}

// atLeast compares the release of a kernel.
func atLeast(release string, major, minor int) bool {
	var a, b int
	if n, _ := fmt.Sscanf(release, "%d.%d", &a, &b); n < 2 {
		return true // not one that is known to be old
	}
	return a > major || a == major && b >= minor
}
