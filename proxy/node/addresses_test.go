package node

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

func TestMain(m *testing.M) { os.Exit(proxytest.Main(m)) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	return l
}

func ipNet(t *testing.T, s string) *netlink.Addr {
	t.Helper()
	a, err := netlink.ParseAddr(s)
	must(t, err)
	return a
}

func TestAddressesReadsAllButIgnored(t *testing.T) {
	proxytest.InNamespace(t, func() {
		must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "kube-ipvs0"}, PeerName: "peer"}))
		must(t, netlink.AddrAdd(link(t, "kube-ipvs0"), ipNet(t, "10.96.0.10/32")))
		must(t, netlink.AddrAdd(link(t, "peer"), ipNet(t, "192.0.2.1/24")))
		must(t, netlink.AddrAdd(link(t, "lo"), ipNet(t, "198.51.100.7/32")))
		must(t, netlink.AddrAdd(link(t, "lo"), ipNet(t, "2001:db8::1/128")))
		a, err := NewAddresses(AddressOptions{Ignore: []string{"kube-ipvs0", "nothing0"}})
		must(t, err)
		if diff := cmp.Diff(addrs("127.0.0.1", "192.0.2.1", "198.51.100.7"), a.Of(proxy.IPv4), byString); diff != "" {
			t.Errorf("IPv4 (-want +got)\n%s", diff)
		}
		if diff := cmp.Diff(addrs("::1", "2001:db8::1"), a.Of(proxy.IPv6), byString); diff != "" {
			t.Errorf("IPv6 (-want +got)\n%s", diff)
		}
	})
}

// TestAddressesFollowsChanges changes addresses while Run, which keeps the thread of the namespace busy, follows them: the
// changes are made over a netlink handle that belongs to the namespace.
func TestAddressesFollowsChanges(t *testing.T) {
	proxytest.InNamespace(t, func() {
		handle, err := netlink.NewHandle()
		must(t, err)
		defer handle.Close()
		must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "peer"}))
		eth0, lo := link(t, "eth0"), link(t, "lo")

		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		changed := make(chan struct{}, 1)
		a, err := NewAddresses(AddressOptions{
			Changed: func() {
				select {
				case changed <- struct{}{}:
				default:
				}
			},
			Problem: func(err error) { t.Errorf("problem: %v", err) },
		})
		must(t, err)

		// The steps run beside Run and end it.
		stepped := make(chan error, 1)
		go func() {
			defer cancel()
			stepped <- steps(ctx, a, changed, handle, eth0, lo)
		}()
		if err := a.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
		must(t, <-stepped)
	})
}

func steps(ctx context.Context, a *Addresses, changed <-chan struct{}, h *netlink.Handle, eth0, lo netlink.Link) error {
	v4, _ := netlink.ParseAddr("192.0.2.1/24")
	v6, _ := netlink.ParseAddr("2001:db8::1/128")
	for _, step := range []struct {
		do     func() error
		family proxy.Family
		addr   string
		want   bool
	}{
		{func() error { return h.AddrAdd(eth0, v4) }, proxy.IPv4, "192.0.2.1", true},
		{func() error { return h.AddrAdd(lo, v6) }, proxy.IPv6, "2001:db8::1", true},
		{func() error { return h.AddrDel(eth0, v4) }, proxy.IPv4, "192.0.2.1", false},
		{func() error { return h.AddrDel(lo, v6) }, proxy.IPv6, "2001:db8::1", false},
	} {
		if err := step.do(); err != nil {
			return err
		}
		for slices.Contains(a.Of(step.family), netip.MustParseAddr(step.addr)) != step.want {
			select {
			case <-changed:
			case <-ctx.Done():
				return errors.New("no notice of " + step.addr)
			}
		}
	}
	return nil
}

// TestAddressesCallsBackOnlyForChanges sets an address again, with another lifetime, which changes nothing that counts.
func TestAddressesCallsBackOnlyForChanges(t *testing.T) {
	proxytest.InNamespace(t, func() {
		calls := 0
		a, err := NewAddresses(AddressOptions{Changed: func() { calls++ }})
		must(t, err)
		must(t, a.update())
		address := ipNet(t, "192.0.2.1/32")
		must(t, netlink.AddrAdd(link(t, "lo"), address))
		must(t, a.update())
		address.ValidLft, address.PreferedLft = 500, 400
		must(t, netlink.AddrReplace(link(t, "lo"), address))
		must(t, a.update())
		if calls != 1 {
			t.Errorf("%d calls, want 1", calls)
		}
	})
}

// TestAddressesOutliveLostSubscriptions breaks the subscription in three ways; what changed meanwhile is read afterwards.
func TestAddressesOutliveLostSubscriptions(t *testing.T) {
	proxytest.InNamespace(t, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		var problems []string
		a, err := NewAddresses(AddressOptions{Problem: func(err error) { problems = append(problems, err.Error()) }})
		must(t, err)
		a.retry = time.Millisecond
		subscriptions := 0
		a.subscribe = func(updates chan<- netlink.AddrUpdate, done <-chan struct{}, lost func(error)) error {
			switch subscriptions++; subscriptions {
			case 1:
				return errors.New("no socket")
			case 2:
				lost(errors.New("no buffer space available"))
				close(updates)
			case 3:
				close(updates)
			case 4:
				must(t, netlink.AddrAdd(link(t, "lo"), ipNet(t, "192.0.2.1/32")))
				a.options.Changed = cancel
				go func() { <-done; close(updates) }()
			}
			return nil
		}
		if err := a.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
		if diff := cmp.Diff(addrs("127.0.0.1", "192.0.2.1"), a.Of(proxy.IPv4), byString); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		if len(problems) != 3 {
			t.Errorf("problems %q, want 3", problems)
		}
	})
}

// TestAddressesOfIgnoredInterfacesAreNoReasonToRead has changes of an ignored interface, and then one of another or the end of the subscription.
func TestAddressesOfIgnoredInterfacesAreNoReasonToRead(t *testing.T) {
	proxytest.InNamespace(t, func() {
		must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "kube-ipvs0"}, PeerName: "peer"}))
		ignored, counts := link(t, "kube-ipvs0").Attrs().Index, link(t, "peer").Attrs().Index
		a, err := NewAddresses(AddressOptions{Ignore: []string{"kube-ipvs0"}})
		must(t, err)
		for _, tt := range []struct {
			changed []int
			read    bool
		}{
			{[]int{counts}, true},
			{[]int{ignored, ignored, counts}, true},
			{[]int{ignored, ignored}, false},
		} {
			updates := make(chan netlink.AddrUpdate, len(tt.changed))
			for _, index := range tt.changed {
				updates <- netlink.AddrUpdate{LinkIndex: index}
			}
			close(updates)
			if err := a.wait(t.Context(), nil, nil, updates); (err == nil) != tt.read {
				t.Errorf("interfaces %v: %v; want the addresses to be read: %t", tt.changed, err, tt.read)
			}
		}
	})
}
