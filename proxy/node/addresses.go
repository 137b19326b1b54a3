package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"

	"turnout/proxy"
)

// Addresses are all local addresses of the machine, kept up to date.
type Addresses struct {
	options AddressOptions
	current atomic.Pointer[[]netip.Addr] // sorted, unique
	ignored map[int]bool                 // the numbers of the interfaces that did not count when the addresses were read
	// subscribe has the kernel's changes sent to updates until done is closed, and then, or when it loses some, closes updates.
	subscribe func(updates chan<- netlink.AddrUpdate, done <-chan struct{}, lost func(error)) error
	retry     time.Duration
}

// AddressOptions are the settings of Addresses.
type AddressOptions struct {
	// Ignore names interfaces whose addresses do not count, such as the IPVS mode's own, which has every ClusterIP. They need
	// not exist.
	Ignore []string
	// Changed, if not nil, is called by Run after the addresses changed, with no other call at the same time.
	Changed func()
	// Problem, if not nil, is called by Run with errors that it recovers from by trying again.
	Problem func(error)
}

const (
	// settle is how long changes are collected before the addresses are read: an interface that comes up brings several.
	settle = 50 * time.Millisecond
	// addressRetry is the time until the next try after an error, and addressResync that until the addresses are read
	// without a reason, in case a message was lost.
	addressRetry  = time.Second
	addressResync = 5 * time.Minute
	// listAttempts is how often a listing is begun that the kernel calls inconsistent.
	listAttempts = 5
)

// NewAddresses reads the addresses for the first time, in the network namespace of the calling thread. After an error the
// result is usable, and empty until Run has read them.
func NewAddresses(options AddressOptions) (*Addresses, error) {
	a := &Addresses{options: options, subscribe: subscribe, retry: addressRetry}
	_, err := a.refresh()
	return a, err
}

// Of returns the local addresses of a family, loopback ones included, sorted. IPv6 ones have no zone. It may be called from
// any goroutine.
func (a *Addresses) Of(family proxy.Family) []netip.Addr {
	var out []netip.Addr
	for _, addr := range *a.current.Load() {
		if proxy.FamilyOf(addr) == family {
			out = append(out, addr)
		}
	}
	return out
}

// Run follows changes until the context ends, and returns its error. It works in the network namespace of the calling
// thread, to which the caller must lock it if that is not the process's.
func (a *Addresses) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := a.follow(ctx)
		if ctx.Err() != nil {
			break
		}
		// The kernel sends no more to a subscriber that did not read fast enough (ENOBUFS); a new one reads everything anew.
		a.problem(fmt.Errorf("follow the node's addresses: %w", err))
		sleep(ctx, a.retry)
	}
	return ctx.Err()
}

// follow subscribes to changes before it reads the addresses, so that none is missed in between, and returns when the
// subscription ends or the addresses cannot be read.
func (a *Addresses) follow(ctx context.Context) error {
	lost := make(chan error, 1)
	updates, done := make(chan netlink.AddrUpdate, 64), make(chan struct{})
	err := a.subscribe(updates, done, func(err error) {
		select {
		case lost <- err:
		default:
		}
	})
	if err != nil {
		close(done)
		return fmt.Errorf("subscribe: %w", err)
	}
	defer func() {
		close(done)
		for range updates { // the sender closes it as soon as it notices
		}
	}()
	resync := time.NewTicker(addressResync)
	defer resync.Stop()
	for {
		if err := a.update(); err != nil {
			return err
		}
		if err := a.wait(ctx, resync.C, lost, updates); err != nil {
			return err
		}
	}
}

// wait returns when the addresses should be read again. Changes of ignored interfaces are no reason: in mode IPVS there are as many as Services, and reading takes
// as long as all their addresses do.
func (a *Addresses) wait(ctx context.Context, resync <-chan time.Time, lost <-chan error, updates <-chan netlink.AddrUpdate) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-resync:
			return nil
		case err := <-lost:
			return err
		case u, ok := <-updates:
			if !ok {
				return errors.New("subscription ended")
			}
			if !a.ignored[u.LinkIndex] {
				collect(ctx, updates)
				return nil
			}
		}
	}
}

func subscribe(updates chan<- netlink.AddrUpdate, done <-chan struct{}, lost func(error)) error {
	return netlink.AddrSubscribeWithOptions(updates, done, netlink.AddrSubscribeOptions{ErrorCallback: lost})
}

// collect drops updates for a while: they only say that something changed, and what, the listing says.
func collect(ctx context.Context, updates <-chan netlink.AddrUpdate) {
	quiet := time.NewTimer(settle)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-quiet.C:
			return
		case _, ok := <-updates:
			if !ok {
				return
			}
		}
	}
}

func (a *Addresses) update() error {
	changed, err := a.refresh()
	if changed && a.options.Changed != nil {
		a.options.Changed()
	}
	return err
}

// refresh reads the addresses; it keeps the old ones if that fails.
func (a *Addresses) refresh() (changed bool, err error) {
	next, ignored, err := list(a.options.Ignore)
	old := a.current.Load()
	if err != nil {
		if old == nil {
			a.current.Store(&[]netip.Addr{})
		}
		return false, fmt.Errorf("list the node's addresses: %w", err)
	}
	a.current.Store(&next)
	a.ignored = ignored
	return old == nil || !slices.Equal(*old, next), nil
}

func (a *Addresses) problem(err error) {
	if a.options.Problem != nil {
		a.options.Problem(err)
	}
}

// list reads the addresses, and which interfaces are ignored.
func list(ignore []string) (out []netip.Addr, ignored map[int]bool, err error) {
	var entries []netlink.Addr
	for range listAttempts {
		if entries, err = netlink.AddrList(nil, netlink.FAMILY_ALL); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, nil, err
	}
	ignored = map[int]bool{}
	for _, name := range ignore {
		if link, err := netlink.LinkByName(name); err == nil {
			ignored[link.Attrs().Index] = true
		}
	}
	for _, e := range entries {
		if addr, ok := netip.AddrFromSlice(e.IP); ok && !ignored[e.LinkIndex] {
			out = append(out, addr.Unmap())
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), ignored, nil
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
