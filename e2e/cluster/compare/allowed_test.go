package compare

import (
	"os"
	"slices"
	"strings"
	"testing"

	"turnout/proxy/proxytest/lab"
)

// What is meant to differ. Each entry names its reason by a piece of text of docs/differences.md, which must be there.

// allowance is a kind of packets that the proxies may treat differently.
type allowance struct {
	reason string
	covers func(*difference) bool
}

var allowances = []allowance{
	{"One Service has an address of another", func(d *difference) bool { return d.contested }},
	{"**Endpoints listed twice**", func(d *difference) bool { return d.ambiguous }},
	{"**Mode iptables does the same to packets as mode nftables.**", func(d *difference) bool {
		got, theirs := d.turnout.result(), d.upstream.result()
		switch {
		case d.mode != "iptables":
			return false
		case d.kind == undefined && !d.foreign:
			return got == lab.Refused
		case d.kind == nobody, d.foreign && (d.kind == "ClusterIP" || d.kind == undefined):
			return got == lab.Timeout
		case d.kind == "load-balancer IP" && d.restricted && theirs == lab.Refused:
			return got == lab.Timeout
		case d.kind == "load-balancer IP" || d.kind == "external IP":
			return got == lab.Refused && d.From == "n1"
		}
		return false
	}},
}

// allowed returns the reason of a difference that is meant to be, "" of any other.
func allowed(d *difference) (reason string) {
	for _, a := range allowances {
		if a.covers(d) {
			return a.reason
		}
	}
	return ""
}

// fieldAllowance is a kind of fields that may differ where the configuration is shown.
type fieldAllowance struct {
	reason string
	// covers gets a field's path, what each of the two shows, and the mode that kube-proxy uses.
	covers func(path, upstream, turnout, mode string) bool
}

var fieldAllowances = []fieldAllowance{
	{"`mode` not set", func(path, upstream, turnout, _ string) bool {
		return path == "mode" && upstream == "iptables" && turnout == "nftables"
	}},
	{"`minSyncPeriod` not set", func(path, upstream, turnout, _ string) bool {
		return path == "nftables.minSyncPeriod" && upstream == "1s" && turnout == "0s"
	}},
	{"the sections of modes that are not in use", func(path, _, _, mode string) bool {
		section, _, ok := strings.Cut(path, ".")
		return ok && section != mode && slices.Contains([]string{"iptables", "ipvs", "nftables"}, section)
	}},
	{"`nodePortAddresses` that is not set", func(path, upstream, turnout, _ string) bool {
		return path == "nodePortAddresses" && upstream == "[primary]" && (turnout == "" || turnout == "[]")
	}},
	{"`portRange`", func(path, upstream, _, _ string) bool { return path == "portRange" && upstream == "" }},
}

// metricAllowance is a kind of metrics that only one of the two has.
type metricAllowance struct {
	reason string
	covers func(name string) bool
}

var (
	// missing are metrics that only kube-proxy has.
	missing = []metricAllowance{
		{"metrics of the API server", hasPrefix("apiserver_", "aggregator_")},
	}
	// further are those that only Turnout has; it may have any whose name begins with turnout_.
	further = []metricAllowance{
		{"shows them from the start, with the value 0", hasPrefix("kubeproxy_sync_proxy_rules_nftables_", "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
			"kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total")},
		{"Durations of full and partial syncs are there in mode ipvs, too", hasPrefix("kubeproxy_sync_full_proxy_rules_", "kubeproxy_sync_partial_proxy_rules_")},
	}
)

func hasPrefix(prefixes ...string) func(string) bool {
	return func(name string) bool {
		return slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
	}
}

// reasonOf returns the reason of a metric that is meant to be on one side only, "" of any other.
func reasonOf(list []metricAllowance, name string) string {
	for _, a := range list {
		if a.covers(name) {
			return a.reason
		}
	}
	return ""
}

// TestAllowancesHaveReasons finds the reason of each allowance on the page that lists all differences.
func TestAllowancesHaveReasons(t *testing.T) {
	page, err := os.ReadFile("../../../docs/differences.md")
	if err != nil {
		t.Fatal(err)
	}
	var reasons []string
	for _, a := range allowances {
		reasons = append(reasons, a.reason)
	}
	for _, a := range fieldAllowances {
		reasons = append(reasons, a.reason)
	}
	for _, a := range append(slices.Clone(missing), further...) {
		reasons = append(reasons, a.reason)
	}
	for _, code := range endings {
		reasons = append(reasons, code.reason)
	}
	text := strings.Join(strings.Fields(string(page)), " ") // lines may be broken anywhere
	for _, reason := range append(reasons, otherReasons...) {
		if !strings.Contains(text, reason) {
			t.Errorf("docs/differences.md does not say %q", reason)
		}
	}
}

// otherReasons are those of differences that tests look for one by one.
var otherReasons = []string{
	"`X-Content-Type-Options`",                                   // TestServers
	"they are cleaned without any endpoint left",                 // TestFlows
	"Configuration file changes",                                 // TestChangedFile
	"Rules of modes iptables and ipvs that are left from before", // TestGoBack and TestTakeOver
}
