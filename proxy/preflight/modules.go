package preflight

import (
	"bufio"
	"bytes"
	"errors"
	"path"
	"slices"
	"strings"

	"turnout/proxy"
	"turnout/proxy/config"
	"turnout/proxy/iptables"
)

// Modules tells which parts of the kernel are there, by its lists of modules.
type Modules struct {
	// Monolithic: the kernel has no modules. Which parts it was built with only a trial tells.
	Monolithic bool
	// Locked: no further module can be loaded (sysctl kernel.modules_disabled).
	Locked bool

	loaded, builtin, onDisk map[string]bool
	// unread is why it is not known which can be loaded, builtinUnread why it is not known which are built in; nil if that is known.
	unread, builtinUnread error
}

// Presence is where a module is.
type Presence uint8

// Where a module may be.
const (
	Unknown Presence = iota
	Absent
	Loaded
	Builtin
	Loadable
)

// A List is the contents of a file that lists modules, or why there are none.
type List struct {
	Text []byte
	Err  error
}

// NewModules reads /proc/modules, modules.builtin and modules.dep.
func NewModules(loaded, builtin, dep List) Modules {
	return Modules{loaded: names(loaded.Text, " "), builtin: names(builtin.Text, " "), onDisk: names(dep.Text, ":"), unread: errors.Join(loaded.Err, dep.Err), builtinUnread: builtin.Err}
}

// names returns the module that each line begins with: a name, or the path of a file that an end such as .ko.xz follows.
func names(text []byte, end string) map[string]bool {
	out := map[string]bool{}
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		name, _, _ := strings.Cut(s.Text(), end)
		name, _, _ = strings.Cut(path.Base(name), ".ko")
		out[strings.ReplaceAll(name, "-", "_")] = true
	}
	return out
}

// Of tells where a module is.
func (m *Modules) Of(name string) Presence {
	switch {
	case m.loaded[name]:
		return Loaded
	case m.builtin[name]:
		return Builtin
	case m.onDisk[name] && !m.Locked:
		return Loadable
	case m.Monolithic || m.unread != nil || m.builtinUnread != nil:
		return Unknown
	}
	return Absent
}

// Idle lists those modules that the kernel would load, or might, if it was asked for what they do.
func (m *Modules) Idle(names []string) (out []string) {
	if m.Monolithic || m.Locked {
		return nil
	}
	for _, name := range names {
		if p := m.Of(name); p == Loadable || p == Unknown && m.unread != nil {
			out = append(out, name)
		}
	}
	return out
}

// Missing lists those that are not there. What is merely not known is not among them.
func (m *Modules) Missing(names []string) (out []string) {
	for _, name := range names {
		if m.Of(name) == Absent {
			out = append(out, name)
		}
	}
	return out
}

// A need is what a mode uses of the kernel, by names of modules.
type need struct {
	must []string
	// some are modules that only Services of a kind need, which servedBy names.
	some []string
	// may are modules that some kernels have apart, and others as part of another.
	may []string
}

func (n need) all() []string { return slices.Concat(n.must, n.some, n.may) }

// servedBy says what Services have that need a module.
var servedBy = map[string]string{"xt_recent": "session affinity", "xt_sctp": "SCTP"}

// needOf returns what a mode needs for a family. Of iptables, variant counts, of ipvs the scheduler.
func needOf(m config.Mode, f proxy.Family, variant iptables.Variant, scheduler string) need {
	v := "ipv4"
	if f == proxy.IPv6 {
		v = "ipv6"
	}
	nft := need{must: []string{"nf_tables", "nft_chain_nat", "nft_ct", "nft_masq", "nft_reject_" + v, "nft_fib_" + v},
		may: []string{"nfnetlink", "nf_tables_set", "nft_counter", "nft_reject", "nft_fib", "nf_nat", "nf_conntrack"}}
	switch m {
	case config.NFTables:
		nft.must = append(nft.must, "nft_nat", "nft_numgen")
		return nft
	case config.IPVS:
		nft.must = append(nft.must, "ip_vs", "ip_vs_"+scheduler, "dummy")
		return nft
	}
	x := need{must: []string{"x_tables", "xt_comment", "xt_conntrack", "xt_addrtype", "xt_statistic", "xt_mark", "xt_nat", "xt_MASQUERADE", "xt_tcpudp"},
		some: []string{"xt_recent", "xt_sctp"},
		may:  []string{"nf_nat", "nf_conntrack", "nfnetlink", "nfnetlink_acct", "xt_nfacct"}}
	reject, table := "ipt_REJECT", "ip"
	if f == proxy.IPv6 {
		reject, table = "ip6t_REJECT", "ip6"
	}
	x.must = append(x.must, reject)
	if variant == iptables.Legacy {
		x.must = append(x.must, table+"_tables", table+"table_nat", table+"table_filter", table+"table_mangle")
	} else {
		x.must = append(x.must, "nf_tables", "nft_compat", "nft_chain_nat")
		x.may = append(x.may, "nf_tables_set", "nft_counter")
	}
	return x
}
