package preflight

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
	"turnout/proxy/config"
	"turnout/proxy/iptables"
)

const (
	procModules = "nf_tables 303104 12 nft_ct,nft_chain_nat, Live 0x0000000000000000\nnft_ct 24576 0 - Live 0x0000000000000000\n"
	builtinList = "kernel/net/netfilter/nf_conntrack.ko\nkernel/drivers/net/dummy.ko\n"
	depList     = "kernel/net/netfilter/nft-numgen.ko.xz: kernel/net/netfilter/nf_tables.ko.xz\nkernel/net/netfilter/nft_ct.ko.zst:\nkernel/net/netfilter/ipvs/ip_vs.ko:\n"
)

// Each module is looked for in all lists, whatever its file is compressed with.
func TestModules(t *testing.T) {
	names := []string{"nf_tables", "nft_ct", "dummy", "nft_numgen", "ip_vs", "ip_vs_rr"}
	gone := errors.New("gone")
	all := func(m Modules) (out []Presence) {
		for _, n := range names {
			out = append(out, m.Of(n))
		}
		return out
	}
	read := NewModules(List{Text: []byte(procModules)}, List{Text: []byte(builtinList)}, List{Text: []byte(depList)})
	locked, monolithic := read, NewModules(List{}, List{}, List{})
	locked.Locked, monolithic.Monolithic = true, true
	for _, test := range []struct {
		name          string
		modules       Modules
		want          []Presence
		idle, missing []string
	}{
		{"read", read, []Presence{Loaded, Loaded, Builtin, Loadable, Loadable, Absent}, []string{"nft_numgen", "ip_vs"}, []string{"ip_vs_rr"}},
		{"no more can be loaded", locked, []Presence{Loaded, Loaded, Builtin, Absent, Absent, Absent}, nil, []string{"nft_numgen", "ip_vs", "ip_vs_rr"}},
		{"kernel without modules", monolithic, []Presence{Unknown, Unknown, Unknown, Unknown, Unknown, Unknown}, nil, nil},
		{"lists that cannot be read", NewModules(List{Text: []byte(procModules)}, List{Err: gone}, List{Err: gone}), []Presence{Loaded, Loaded, Unknown, Unknown, Unknown, Unknown},
			[]string{"dummy", "nft_numgen", "ip_vs", "ip_vs_rr"}, nil},
		{"what is built in cannot be read", NewModules(List{Text: []byte(procModules)}, List{Err: gone}, List{Text: []byte(depList)}), []Presence{Loaded, Loaded, Unknown, Loadable, Loadable, Unknown},
			[]string{"nft_numgen", "ip_vs"}, nil},
	} {
		if diff := cmp.Diff(test.want, all(test.modules)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", test.name, diff)
		}
		if diff := cmp.Diff(test.idle, test.modules.Idle(names)); diff != "" {
			t.Errorf("%s: idle: -want +got:\n%s", test.name, diff)
		}
		if diff := cmp.Diff(test.missing, test.modules.Missing(names)); diff != "" {
			t.Errorf("%s: missing: -want +got:\n%s", test.name, diff)
		}
	}
}

// What a mode needs depends on the family, the variant and the scheduler.
func TestNeed(t *testing.T) {
	for _, test := range []struct {
		mode    config.Mode
		family  proxy.Family
		variant iptables.Variant
		with    []string
		without []string
	}{
		{config.NFTables, proxy.IPv4, "", []string{"nf_tables", "nft_numgen", "nft_fib_ipv4", "nft_reject_ipv4"}, []string{"nft_fib_ipv6", "ip_vs"}},
		{config.NFTables, proxy.IPv6, "", []string{"nft_fib_ipv6", "nft_reject_ipv6"}, []string{"nft_fib_ipv4"}},
		{config.IPVS, proxy.IPv4, "", []string{"ip_vs", "ip_vs_lc", "dummy", "nf_tables"}, []string{"nft_numgen", "ip_vs_rr"}},
		{config.IPTables, proxy.IPv4, iptables.NFT, []string{"nft_compat", "ipt_REJECT", "xt_recent"}, []string{"ip_tables", "ip6t_REJECT"}},
		{config.IPTables, proxy.IPv6, iptables.Legacy, []string{"ip6_tables", "ip6table_nat", "ip6t_REJECT"}, []string{"nf_tables", "iptable_nat"}},
	} {
		got := needOf(test.mode, test.family, test.variant, "lc").all()
		for _, n := range test.with {
			if !slices.Contains(got, n) {
				t.Errorf("%s %s %s does not need %s: %v", test.mode, test.family, test.variant, n, got)
			}
		}
		for _, n := range test.without {
			if slices.Contains(got, n) {
				t.Errorf("%s %s %s needs %s: %v", test.mode, test.family, test.variant, n, got)
			}
		}
	}
}

func TestAtLeast(t *testing.T) {
	for release, want := range map[string]bool{"5.10.0-32-cloud-amd64": false, "5.11.0": true, "6.1.0": true, "4.19.0": false, "7.2": true, "unknown": true} {
		if got := atLeast(release, 5, 11); got != want {
			t.Errorf("%s: %v", release, got)
		}
	}
}

func TestPluginTypes(t *testing.T) {
	for text, want := range map[string][]string{
		`{"name": "k8s", "plugins": [{"type": "calico"}, {"type": "portmap"}]}`: {"calico", "portmap"},
		`{"type": "bridge", "ipam": {"type": "host-local"}}`:                    {"bridge"},
	} {
		if got, err := pluginTypes([]byte(text)); !slices.Equal(got, want) || err != nil {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	if _, err := pluginTypes([]byte("{")); err == nil {
		t.Error("a file that is no JSON was read")
	}
}
