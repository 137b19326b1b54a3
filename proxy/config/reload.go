package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ErrChanged tells that the configuration file has a change that only a new process can follow.
var ErrChanged = errors.New("configuration file changed")

// live are the fields that a running proxy follows, and the sections of which it follows all. Everything else takes effect in a new
// process: it is about sockets, about the connection to the API server, or decides what the process is made of.
var live = []string{
	// What the rules are made of: the next sync has all of it.
	"nodePortAddresses", "clusterCIDR", "detectLocalMode", "detectLocal",
	"nftables.masqueradeAll", "nftables.masqueradeBit", "iptables.masqueradeAll", "iptables.masqueradeBit",
	// When the rules are written, and when /healthz gives up.
	"nftables.syncPeriod", "nftables.minSyncPeriod", "iptables.syncPeriod", "iptables.minSyncPeriod", "ipvs.syncPeriod", "ipvs.minSyncPeriod",
	// Settings of the kernel, which are written again. As at the start, a value that means "leave it alone" leaves what was written before.
	"conntrack", "oomScoreAdj",
	"logging.verbosity",
}

// notLive are exceptions in some modes, whose backend is made for what these fields say.
var notLive = map[Mode][]string{
	IPTables: {"nodePortAddresses", "conntrack.tcpBeLiberal"}, // loopback addresses; packets that connection tracking cannot place
}

// Change is a field whose value in effect is another.
type Change struct {
	// Field is the path; Old and New are values as JSON would have them but for the quotes of strings, "unset" for none.
	Field, Old, New string
	// Live tells that a running proxy follows the change. A field that has no effect in the mode is followed by doing nothing.
	Live bool
}

// String returns "field from old to new".
func (c Change) String() string { return fmt.Sprintf("%s from %s to %s", c.Field, c.Old, c.New) }

// ChangesTo lists in order of their paths the fields that are others in next.
func (c *Config) ChangesTo(next *Config) []Change {
	before, after := flatten(c.External), flatten(next.External)
	union := maps.Clone(before)
	maps.Copy(union, after)
	var out []Change
	for _, field := range slices.Sorted(maps.Keys(union)) {
		was, is := before[field], after[field]
		if was == is {
			continue
		}
		orDefault(&was, "unset")
		orDefault(&is, "unset")
		out = append(out, Change{Field: field, Old: was, New: is, Live: isLive(field, c.Mode) || !usedIn(field, c.Mode)})
	}
	return out
}

// isLive tells whether a proxy that runs in a mode follows changes of a field.
func isLive(field string, m Mode) bool {
	return !slices.Contains(notLive[m], field) && slices.ContainsFunc(live, func(l string) bool { return field == l || strings.HasPrefix(field, l+".") })
}

// Reread returns the Config that the same command line leads to if ConfigFile has these contents. It is for the same Mode if the same is Asked,
// or if the mode is kept, whatever the contents ask for. The error is a Problems.
func (c *Config) Reread(contents []byte, keepMode bool) (*Config, error) {
	read := func(string) ([]byte, error) { return contents, nil }
	next, err := c.flags.configIn("", read)
	if err != nil || next.Asked != c.Asked && !keepMode {
		return next, err
	}
	return c.flags.configIn(c.Mode, read)
}
