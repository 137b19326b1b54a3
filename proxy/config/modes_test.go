package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	sigsyaml "sigs.k8s.io/yaml"
)

// What becomes of the files of installers in each mode: what `config check` says, what is in effect, and what `config convert` makes of
// them.
func TestFilesInEveryMode(t *testing.T) {
	for _, path := range testFiles(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, m := range slices.Concat([]Mode{""}, Modes) {
				describeMode(&b, data, m)
			}
			compareGolden(t, strings.TrimSuffix(path, ".yaml")+".modes.golden", b.String())
		})
	}
}

func describeMode(b *strings.Builder, data []byte, m Mode) {
	r := Check(data, m)
	fmt.Fprintf(b, "=== as mode %s: %s\n", cmp.Or(m, "of the file"), r.Summary())
	for _, p := range r.Problems {
		fmt.Fprintf(b, "error    %v\n", p)
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(b, "warning  %v\n", w)
	}
	for _, w := range r.Notes {
		fmt.Fprintf(b, "note     %v\n", w)
	}
	if m == "" {
		return
	}
	c := resolveFile(data, m).config
	fmt.Fprintf(b, "sync     every change after %v at least, retry after %v\nmark     bit %d, masquerade all %t\nports    %+v\n",
		c.Sync.MinPeriod, c.Sync.Period, c.MasqueradeBit, c.MasqueradeAll, c.NodePortAddresses)
	conv, err := Convert(data, "", m)
	if err != nil {
		fmt.Fprintf(b, "--- not converted: %v\n", err)
		return
	}
	fmt.Fprintf(b, "--- converted from mode %s\n", conv.From)
	for _, w := range conv.Changes {
		fmt.Fprintf(b, "changed  %v\n", w)
	}
	for _, w := range conv.Losses {
		fmt.Fprintf(b, "lost     %v\n", w)
	}
	b.Write(conv.File)
}

// A file that is right in one mode starts in every other, and mode, sections and all.
func TestAFileStartsInEveryMode(t *testing.T) {
	for _, path := range testFiles(t) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range Modes {
			if r := Check(data, m); len(r.Problems) > 0 || r.Mode != m {
				t.Errorf("%s in mode %s (looked at in mode %s): %v", path, m, r.Mode, r.Problems)
			}
		}
	}
}

// What is in effect stays in effect on the way from a mode to another and back, but for what the other mode does not have.
func TestRoundTrip(t *testing.T) {
	lost := cmpopts.IgnoreFields(Config{}, "LocalhostNodePorts", "Mode", "Asked", "ModeSet", "IPVS", "External", "Gates", "Flags", "Warnings")
	same := gocmp.Options{lost, cmpopts.IgnoreUnexported(Config{}), cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})}
	for _, path := range testFiles(t) {
		for _, from := range Modes {
			for _, over := range Modes {
				if over == from {
					continue
				}
				data, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				there := mustConvert(t, data, from, over)
				back := mustConvert(t, there.File, over, from)
				before, after := resolveFile(data, from).config, resolveFile(back.File, from).config
				normalize(before)
				normalize(after)
				if diff := gocmp.Diff(before, after, same); diff != "" {
					t.Errorf("%s: %s -> %s -> %s: -before +after\n%s", path, from, over, from, diff)
				}
				if again := mustConvert(t, back.File, from, from); len(again.Losses) > 0 || string(again.File) != string(back.File) {
					t.Errorf("%s: a converted file of mode %s is not left alone: lost %q, now\n%s", path, from, texts(again.Losses), again.File)
				}
			}
		}
	}
}

// normalize makes lists of addresses alike that mean the same.
func normalize(c *Config) {
	n := &c.NodePortAddresses
	everything := func(p netip.Prefix) bool { return p.Bits() == 0 }
	if len(n.Prefixes) == 2 && everything(n.Prefixes[0]) && everything(n.Prefixes[1]) {
		*n = NodePortAddresses{All: true}
	}
	n.Set = false
}

func mustConvert(t *testing.T, data []byte, from, to Mode) *Conversion {
	t.Helper()
	c, err := Convert(data, from, to)
	if err != nil {
		t.Fatalf("convert from %s to %s: %v\n%s", from, to, err, data)
	}
	return c
}

// What Convert writes has no fields that its mode does not use, none that are unknown, and is read strictly.
func TestConvertedFilesAreClean(t *testing.T) {
	aboutTheCluster := []string{"clusterCIDR", "nodePortAddresses", "mode", "featureGates"}
	for _, path := range testFiles(t) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range Modes {
			for _, w := range Check(mustConvert(t, data, "", m).File, m).Warnings {
				if !slices.Contains(aboutTheCluster, w.Where) {
					t.Errorf("%s converted to %s: %s", path, m, w)
				}
			}
		}
	}
}

func TestConvert(t *testing.T) {
	rows := map[string]struct {
		file            string
		from, to        Mode
		want            string // without apiVersion, kind and mode, and without nodePortAddresses that keep them as they are
		changes, losses []string
	}{
		"what was in effect stays in effect": {
			file: "iptables: {syncPeriod: 10s}\nnftables: {syncPeriod: 20s, masqueradeBit: 3}\n", from: IPTables, to: NFTables, want: "nftables:\n  syncPeriod: 10s\n",
			changes: []string{"iptables.syncPeriod: 10s is now nftables.syncPeriod"},
			losses: []string{
				"nftables.masqueradeBit: 3 is left out: it had no effect in mode iptables, where iptables.masqueradeBit: 14 holds",
				"nftables.syncPeriod: 20s is left out: it had no effect in mode iptables, where iptables.syncPeriod: 10s holds",
			},
		},
		"a default gives way to a default": {
			file: "iptables: {masqueradeBit: 14}\nnftables: {masqueradeBit: 14}\n", from: IPTables, to: NFTables, want: "nftables:\n  masqueradeBit: 14\n",
			changes: []string{"iptables.masqueradeBit: 14 is now nftables.masqueradeBit"},
		},
		"ipvs shares a field with iptables": {
			file: "iptables: {masqueradeAll: true, syncPeriod: 7s}\nipvs: {syncPeriod: 8s, scheduler: wrr}\n", from: IPVS, to: IPTables,
			want:    "iptables:\n  masqueradeAll: true\n  syncPeriod: 8s\n",
			changes: []string{"ipvs.syncPeriod: 8s is now iptables.syncPeriod"},
			losses: []string{
				"ipvs.scheduler: wrr is left out: mode iptables has nothing like it: endpoints are chosen at random",
				"iptables.syncPeriod: 7s is left out: it had no effect in mode ipvs, where ipvs.syncPeriod: 8s holds",
			},
		},
		"fields that only the new mode has": {
			file: "ipvs: {scheduler: sh}\niptables: {localhostNodePorts: false}\n", from: NFTables, to: IPVS, want: "ipvs:\n  scheduler: sh\n",
			changes: []string{"ipvs.scheduler: sh had no effect in mode nftables, and takes effect now"},
			losses:  []string{"iptables.localhostNodePorts: false is left out: it had no effect in mode nftables, and mode ipvs has nothing like it"},
		},
		"what no file should have": {
			file: "metadata: {name: config}\nportRange: 1-2\nudpIdleTimeout: 1s\nclusterCIDRs: 10.0.0.0/8\nconfigSyncPeriod: 0\n", from: NFTables, to: NFTables, want: "configSyncPeriod: 0s\n",
			losses: []string{
				"metadata is no field of a KubeProxyConfiguration and is left out",
				`clusterCIDRs is no field of a KubeProxyConfiguration and is left out; did you mean "clusterCIDR"?`,
				"portRange: 1-2 is left out: it belonged to a mode that kube-proxy lost in 1.26",
				"udpIdleTimeout is no field of a KubeProxyConfiguration and is left out",
			},
		},
	}
	for name, r := range rows {
		t.Run(name, func(t *testing.T) {
			c, err := Convert([]byte(header+"nodePortAddresses: [primary]\n"+r.file), r.from, r.to)
			if err != nil {
				t.Fatal(err)
			}
			want := header + "mode: " + string(r.to) + "\nnodePortAddresses:\n- primary\n" + r.want
			if diff := gocmp.Diff(sortedYAML(t, want), sortedYAML(t, string(c.File))); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if diff := gocmp.Diff(strings.Join(r.changes, "\n"), texts(c.Changes)); diff != "" {
				t.Errorf("changes: -want +got\n%s", diff)
			}
			if diff := gocmp.Diff(sortedLines(r.losses), sortedLines(strings.Split(texts(c.Losses), "\n"))); diff != "" {
				t.Errorf("losses: -want +got\n%s", diff)
			}
		})
	}
}

func TestConvertRefuses(t *testing.T) {
	rows := map[string]struct {
		file     string
		from, to Mode
		want     []string
	}{
		"what is wrong in the old mode": {"iptables: {masqueradeBit: 99, syncPeriod: x}\n", IPTables, NFTables, []string{
			`iptables.syncPeriod: "x" does not fit; give a duration such as "30s" or "15m"`, "iptables.masqueradeBit: 99 is outside 0 to 31; give a number within"}},
		"what is wrong in the new mode": {"ipvs: {excludeCIDRs: [here]}\n", NFTables, IPVS,
			[]string{`ipvs.excludeCIDRs: entry 0, "here", is not a CIDR; give one such as 10.0.0.0/8`}},
		"an unknown mode": {"mode: userspace\n", "", IPVS, []string{`mode: "userspace" is not a mode; set nftables, iptables, ipvs or auto`}},
		"no YAML":         {"a: b: c", "", IPVS, []string{"yaml: mapping values are not allowed in this context; write a KubeProxyConfiguration in YAML or JSON"}},
	}
	for name, r := range rows {
		_, err := Convert([]byte(header+r.file), r.from, r.to)
		got := problemLines(err)
		if name == "no YAML" && len(got) == 1 {
			got[0] = got[0][strings.Index(got[0], "yaml:"):] // a line number comes and goes
			got[0] = "yaml: " + got[0][strings.Index(got[0], "mapping"):]
		}
		if diff := gocmp.Diff(r.want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
}

// sortedYAML brings YAML into the form in which it is marshalled.
func sortedYAML(t *testing.T, text string) string {
	t.Helper()
	var tree any
	if err := sigsyaml.Unmarshal([]byte(text), &tree); err != nil {
		t.Fatal(err)
	}
	raw, err := sigsyaml.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func sortedLines(lines []string) string {
	return strings.Join(slices.Sorted(slices.Values(lines)), "\n")
}
