package config

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A Config of another mode has the settings of that mode, and still says what was asked for.
func TestIn(t *testing.T) {
	c := mustLoad(t, map[string]string{"file": header + "mode: auto\nnftables: {syncPeriod: 3s}\niptables: {syncPeriod: 4s, masqueradeAll: true}\nipvs: {syncPeriod: 5s, scheduler: sh}\n"}, "--config=file")
	if c.Mode != Auto || c.Asked != Auto || !c.ModeSet {
		t.Fatalf("mode %s, asked %s, set %t", c.Mode, c.Asked, c.ModeSet)
	}
	for m, want := range map[Mode]Sync{NFTables: {Period: 3 * time.Second}, IPTables: {Period: 4 * time.Second}, IPVS: {Period: 5 * time.Second}} {
		in, err := c.In(m)
		if err != nil {
			t.Fatal(err)
		}
		if in.Mode != m || string(in.External.Mode) != string(m) || in.Asked != Auto || in.Sync.Period != want.Period || in.MasqueradeAll != (m != NFTables) {
			t.Errorf("in mode %s: mode %s, asked %s, period %v, masqueradeAll %t", m, in.Mode, in.Asked, in.Sync.Period, in.MasqueradeAll)
		}
		warned := slices.ContainsFunc(in.Warnings, func(w Warning) bool { return strings.Contains(w.Text, "ipvs.scheduler: sh") })
		if warned != (m != IPVS) {
			t.Errorf("in mode %s: warnings %v", m, in.Warnings)
		}
		again, err := in.In(NFTables)
		if err != nil {
			t.Fatal(err)
		}
		if first, _ := c.In(NFTables); cmp.Diff(first.External, again.External) != "" {
			t.Errorf("by mode %s: -want +got\n%s", m, cmp.Diff(first.External, again.External))
		}
	}
}

// Which mode a changed file is read for depends on what is asked for, not on what is in use.
func TestRereadMode(t *testing.T) {
	rows := map[string]struct {
		before, after string
		in            Mode // what the proxy runs in
		keep          bool
		want          Mode
		changes       []string
	}{
		"still auto":              {before: "auto", after: "auto", in: IPTables, want: IPTables},
		"from auto to what it is": {before: "auto", after: "iptables", in: IPTables, want: IPTables},
		"from auto to another":    {before: "auto", after: "nftables", in: IPTables, want: NFTables, changes: []string{"mode from iptables to nftables"}},
		"from one to another":     {before: "nftables", after: "ipvs", in: NFTables, want: IPVS, changes: []string{"mode from nftables to ipvs"}},
		"kept":                    {before: "nftables", after: "ipvs", in: IPTables, keep: true, want: IPTables},
	}
	for name, r := range rows {
		t.Run(name, func(t *testing.T) {
			c := mustLoad(t, map[string]string{"file": header + "mode: " + r.before + "\n"}, "--config=file")
			c, err := c.In(r.in)
			if err != nil {
				t.Fatal(err)
			}
			next, err := c.Reread([]byte(header+"mode: "+r.after+"\n"), r.keep)
			if err != nil {
				t.Fatal(err)
			}
			if next.Mode != r.want || next.Asked != Mode(r.after) {
				t.Errorf("mode %s, asked %s; want %s, %s", next.Mode, next.Asked, r.want, r.after)
			}
			var changes []string
			for _, change := range c.ChangesTo(next) {
				if change.Field == "mode" && !change.Live {
					changes = append(changes, change.String())
				}
			}
			if diff := cmp.Diff(r.changes, changes); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}
