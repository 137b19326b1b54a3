package config

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestChanges(t *testing.T) {
	rows := map[string]struct {
		args, before, after string
		live, restart       []string
	}{
		"nothing":                  {before: "# one\n", after: "# another\n"},
		"what is the default":      {before: "", after: "mode: nftables\noomScoreAdj: -999\nnodePortAddresses: []\nnftables: {syncPeriod: 30s}\nfeatureGates: {}\n"},
		"what a flag has replaced": {args: "--hostname-override=n -v=2", before: "logging: {verbosity: 3}\n", after: "hostnameOverride: m\n"},
		"rules": {
			before: "clusterCIDR: 10.0.0.0/8\n",
			after:  "nodePortAddresses: [primary, 192.0.2.0/24]\ndetectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}\nnftables: {masqueradeAll: true, masqueradeBit: 3}\n",
			live: []string{`clusterCIDR from 10.0.0.0/8 to ""`, `detectLocal.bridgeInterface from "" to cni0`, "detectLocalMode from ClusterCIDR to BridgeInterface",
				"nftables.masqueradeAll from false to true", "nftables.masqueradeBit from 14 to 3", `nodePortAddresses from unset to ["primary","192.0.2.0/24"]`},
		},
		"kernel settings and times": {
			after: "oomScoreAdj: 5\nconntrack: {maxPerCore: 7, udpTimeout: 30s}\nnftables: {syncPeriod: 5s, minSyncPeriod: 1s}\nlogging: {verbosity: 4}\n",
			live: []string{"conntrack.maxPerCore from 32768 to 7", "conntrack.udpTimeout from 0s to 30s", "logging.verbosity from 0 to 4", "nftables.minSyncPeriod from 0s to 1s",
				"nftables.syncPeriod from 30s to 5s", "oomScoreAdj from -999 to 5"},
		},
		"fields of other modes": {
			before: "iptables: {masqueradeAll: true}\n", after: "ipvs: {scheduler: mh, syncPeriod: 1s}\nportRange: 1-2\n",
			live: []string{"iptables.masqueradeAll from true to false", `ipvs.scheduler from "" to mh`, "ipvs.syncPeriod from 30s to 1s", `portRange from "" to 1-2`},
		},
		"what the process is made of": {
			before: "featureGates: {ComponentFlagz: false}\n",
			after:  "bindAddress: \"::\"\nclientConnection: {qps: 9}\nlogging: {format: json}\nconfigSyncPeriod: 1m\nenableProfiling: true\noomScoreAdj: 1\n",
			live:   []string{"oomScoreAdj from -999 to 1"},
			restart: []string{"bindAddress from 0.0.0.0 to ::", "clientConnection.qps from 5 to 9", "configSyncPeriod from 15m0s to 1m0s", "enableProfiling from false to true",
				"featureGates.ComponentFlagz from false to unset", "healthzBindAddress from 0.0.0.0:10256 to [::]:10256", "logging.format from text to json", "metricsBindAddress from 127.0.0.1:10249 to [::1]:10249"},
		},
	}
	for name, r := range rows {
		t.Run(name, func(t *testing.T) {
			c := mustLoad(t, map[string]string{"file": header + r.before}, append(strings.Fields(r.args), "--config=file")...)
			next, err := c.Reread([]byte(header+r.after), false)
			if err != nil {
				t.Fatal(err)
			}
			var live, restart []string
			for _, change := range c.ChangesTo(next) {
				if change.Live {
					live = append(live, change.String())
				} else {
					restart = append(restart, change.String())
				}
			}
			if diff := cmp.Diff(r.live, live); diff != "" {
				t.Errorf("live: -want +got\n%s", diff)
			}
			if diff := cmp.Diff(r.restart, restart); diff != "" {
				t.Errorf("by a restart: -want +got\n%s", diff)
			}
		})
	}
}

func TestRereadRefuses(t *testing.T) {
	c := mustLoad(t, map[string]string{"file": header}, "--config=file", "--sync-max-delay=2s")
	_, err := c.Reread([]byte(header+"mode: ipfs\nnftables: {syncPeriod: 1s}\nclusterCIDR: x\n"), false)
	want := []string{
		`mode: "ipfs" is not a mode; did you mean "ipvs"?; set nftables, iptables, ipvs or auto`,
		`clusterCIDR: "x" is not a CIDR; give one such as 10.244.0.0/16`,
		"--sync-max-delay: 2s is more than the sync period (1s); give at most that",
	}
	if diff := cmp.Diff(want, problemLines(err)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	_, err = c.Reread([]byte(header+"nftables: {syncPeriod: 1s}\n"), false)
	if diff := cmp.Diff([]string{"--sync-max-delay: 2s is more than the sync period (1s); give at most that"}, problemLines(err)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// The table of live fields names fields and sections that exist.
func TestLiveFieldsExist(t *testing.T) {
	for _, l := range live {
		if !slices.ContainsFunc(fieldPaths(), func(f string) bool { return f == l || strings.HasPrefix(f, l+".") }) {
			t.Errorf("%s is no field", l)
		}
	}
}

// The table of fields in the documentation is what the code does.
func TestDocumentedFields(t *testing.T) {
	const path, begin, end = "../../docs/configuration.md", "TestDocumentedFields -update -->\n", "<!-- end of fields -->"
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(raw), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table of fields", path)
	}
	compareGolden(t, path, head+begin+fieldTable()+end+tail)
}

func fieldTable() string {
	var b strings.Builder
	b.WriteString("| Field | Default | Modes | A change takes effect |\n|---|---|---|---|\n")
	for _, field := range fieldPaths() {
		if field == "apiVersion" || field == "kind" {
			continue
		}
		value, ok := defaultValues()[field]
		if value = "`" + value + "`"; !ok || value == "`\"\"`" {
			value = "unset"
		}
		modes, when := modesOf(field), "restart"
		if strings.Count(modes, " and ") == len(Modes)-1 {
			modes = "all"
		}
		switch {
		case modes == "":
			modes, when = "none", "never"
		case slices.Contains(notLive[IPTables], field):
			when = "at once, in mode iptables by a restart"
		case isLive(field, NFTables):
			when = "at once"
		}
		b.WriteString("| `" + field + "` | " + value + " | " + modes + " | " + when + " |\n")
	}
	return b.String()
}
