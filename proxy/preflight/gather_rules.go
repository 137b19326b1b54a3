package preflight

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"turnout/proxy"
	"turnout/proxy/config"
	"turnout/proxy/iptables"
	"turnout/proxy/iptables/nfacct"
	"turnout/proxy/ipvs"
	"turnout/proxy/leftovers"
	"turnout/proxy/nftables"
	"turnout/proxy/nftables/compat"
	"turnout/proxy/nftables/survey"
)

// tablesOfIptables are those that programs of iptables read.
var tablesOfIptables = []string{"nat", "filter", "mangle", "raw", "security"}

// rules reads what nftables and iptables-legacy hold.
func (g *gatherer) rules() {
	f := g.facts
	f.Tables, f.Legacy, f.Strange = map[proxy.Family][]*survey.Table{}, map[proxy.Family][]leftovers.LegacyTable{}, map[proxy.Family][]compat.Rule{}
	g.nft = g.there("nf_tables")
	for _, family := range f.Families {
		var err error
		if f.Legacy[family], err = leftovers.LegacyTables(family); err != nil {
			g.unseen(fmt.Sprintf("the rules of iptables-legacy for %s", family), err, "")
		}
		if !g.nft {
			continue
		}
		if f.Tables[family], err = survey.Tables(family, skipped); leftovers.Lacking(err) {
			g.nft = false
			continue
		} else if err != nil {
			g.unseen(fmt.Sprintf("the tables of nftables for %s", family), err, "run as root, with CAP_NET_ADMIN")
			continue
		}
		if f.Strange[family], err = strange(family); err != nil {
			g.unseen(fmt.Sprintf("which rules the programs of iptables cannot read, for %s", family), err, "")
		}
	}
	f.Counted = map[string]uint64{}
	if p := f.Modules.Of("nfnetlink_acct"); p == Absent || !g.can("nfnetlink_acct") {
		return
	}
	for _, name := range []string{localhostCounter, invalidCounter} {
		if n, err := nfacct.Packets(name); err == nil {
			f.Counted[name] = n
		} else if !errors.Is(err, fs.ErrNotExist) && !leftovers.Lacking(err) {
			g.unseen("the packet counter "+name, err, "")
		}
	}
}

// Counters that kube-proxy's and Turnout's mode iptables count with.
const (
	localhostCounter = "localhost_nps_accepted_pkts"
	invalidCounter   = "ct_state_invalid_dropped_pkts"
)

// skipped names the chains of proxies, of which there may be many.
func skipped(table, chain string) bool {
	return table == nftables.TableName || table == nftables.GateTable || leftovers.Owns(table, chain)
}

// strange lists the rules that the programs of iptables cannot read.
func strange(f proxy.Family) (out []compat.Rule, err error) {
	reader := compat.New(f)
	chains, err := reader.Chains(tablesOfIptables...)
	if err != nil {
		return nil, err
	}
	for _, c := range chains {
		if leftovers.Owns(c.Table, c.Name) {
			continue
		}
		rules, err := reader.Rules(c.Table, c.Name)
		if err != nil {
			return nil, err
		}
		out = append(out, slices.DeleteFunc(rules, func(r compat.Rule) bool { return len(r.Strange) == 0 })...)
	}
	return out, nil
}

// virtualServers looks for IPVS. Which of them are whose stands in a table of nftables, too: without that in the kernel, the interface alone tells.
func (g *gatherer) virtualServers() {
	if !g.nft {
		_, err := netlink.LinkByName(ipvs.Device)
		g.facts.IPVS.Device = err == nil
		return
	}
	found, err := leftovers.FindIPVS()
	if err != nil {
		g.unseen("virtual servers of IPVS", err, "run as root, with CAP_NET_ADMIN")
		return
	}
	for _, o := range found.Objects() {
		switch o.Kind {
		case "interface":
			g.facts.IPVS.Device = true
		case "virtual server":
			g.facts.IPVS.Ours++
		}
	}
	g.facts.IPVS.Others = len(found.Kept())
}

// interfaceNames names the network interfaces that list lists, which it does again while changes interrupt it.
func interfaceNames(list func() ([]netlink.Link, error)) (out []string, err error) {
	var links []netlink.Link
	for range listAttempts {
		if links, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	for _, l := range links {
		out = append(out, l.Attrs().Name)
	}
	return out, err
}

// listAttempts is how often a listing is begun that the kernel calls inconsistent.
const listAttempts = 5

// pluginTypes reads the configuration of a CNI plugin, or of a list of them.
func pluginTypes(data []byte) (out []string, err error) {
	var conf struct {
		Type    string
		Plugins []struct{ Type string }
	}
	if err := json.Unmarshal(data, &conf); err != nil {
		return nil, err
	}
	for _, p := range conf.Plugins {
		out = append(out, p.Type)
	}
	if conf.Type != "" {
		out = append(out, conf.Type)
	}
	return out, nil
}

// running asks a running proxy for its mode. Both Turnout and kube-proxy answer.
func (g *gatherer) running(ctx context.Context) {
	if !g.Metrics.IsValid() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/proxyMode", g.Metrics), nil)
	if err != nil {
		return
	}
	// Never by way of an HTTP proxy, which the environment may name.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		return // which is how it is without a proxy
	}
	defer answer.Body.Close()
	mode, err := io.ReadAll(io.LimitReader(answer.Body, 100))
	if m, e := config.ParseMode(strings.TrimSpace(string(mode))); err == nil && e == nil && answer.StatusCode == http.StatusOK {
		g.facts.Running, g.facts.RunningAt = string(m), g.Metrics.String()
	}
}

// programs looks for those of iptables, if they are asked for.
func (g *gatherer) programs(ctx context.Context) {
	if !slices.Contains(g.Modes, config.IPTables) {
		return
	}
	for _, f := range g.facts.Families {
		p := Iptables{Family: f}
		// A program of variant nft opens a socket of nfnetlink even to tell its version.
		if p.Unrun = !g.can("nfnetlink"); p.Unrun {
			p.Err = iptables.Installed(iptables.Options{Family: f, Path: g.Path})
		} else {
			p.Choice, p.Err = g.choose(ctx, f)
		}
		g.facts.Programs = append(g.facts.Programs, p)
	}
}

// choose finds the variant of iptables that the node uses. Without nftables in the kernel, nothing of variant nft can be there, and to look
// would load it.
func (g *gatherer) choose(ctx context.Context, f proxy.Family) (iptables.Choice, error) {
	o := iptables.Options{Family: f, Path: g.Path, Timeout: g.Timeout}
	if g.can("nf_tables") {
		b, err := iptables.Open(ctx, o)
		if err != nil {
			return iptables.Choice{}, err
		}
		return b.Choice(), nil
	}
	order := []iptables.Variant{iptables.NFT, iptables.Legacy}
	if len(g.facts.Legacy[f]) > 0 {
		slices.Reverse(order)
	}
	var errs []error
	for _, o.Variant = range order {
		b, err := iptables.Open(ctx, o)
		if err == nil {
			c := b.Choice()
			c.Reason = "module nf_tables is not loaded"
			return c, nil
		}
		errs = append(errs, err)
	}
	return iptables.Choice{}, errs[0]
}
