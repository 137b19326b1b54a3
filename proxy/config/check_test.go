package config

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCheck(t *testing.T) {
	const base = header + "clusterCIDR: 10.0.0.0/8\n"
	rows := map[string]struct {
		file                      string
		mode                      Mode
		problems, warnings, notes []string
	}{
		"nothing to say": {file: base + "mode: nftables\nnftables: {syncPeriod: 10s}\nipvs: {scheduler: rr, excludeCIDRs: []}\niptables: {minSyncPeriod: 1s}\n"},
		"mode that is not set": {
			file:  base,
			notes: []string{"mode is not set, which means nftables; kube-proxy before 1.40 takes iptables", "nodePortAddresses is not set, which means all in mode iptables, but primary in mode nftables", loopbackEnds},
		},
		"field of a mode that is not set": {
			file: base + "nodePortAddresses: [192.0.2.0/24]\niptables: {masqueradeAll: true}\n",
			warnings: []string{
				"iptables.masqueradeAll: true has no effect in mode nftables, which an unset mode means; set nftables.masqueradeAll: true"},
			notes: []string{"mode is not set, which means nftables; kube-proxy before 1.40 takes iptables"},
		},
		"mode of the command line": {
			file: base + "mode: iptables\nnodePortAddresses: [primary]\niptables: {masqueradeAll: true}\n", mode: NFTables,
			warnings: []string{"iptables.masqueradeAll: true has no effect in mode nftables; set nftables.masqueradeAll: true"},
		},
		"mode ipvs": {
			file:     base + "mode: ipvs\nnftables: {masqueradeAll: true}\n",
			warnings: []string{"nftables.masqueradeAll: true has no effect in mode ipvs; set iptables.masqueradeAll: true"},
		},
		"mode auto": {
			file:  base + "mode: auto\nnftables: {masqueradeAll: true}\nipvs: {scheduler: sh}\n",
			notes: []string{"mode auto takes the first of nftables, iptables, ipvs that the node can run; check the file for each"},
		},
		"what any mode refuses": {
			file:     base + "mode: auto\nipvs: {udpTimeout: -1s}\niptables: {masqueradeBit: 32}\n",
			problems: []string{"iptables.masqueradeBit: 32 is outside 0 to 31; give a number within", "ipvs.udpTimeout: -1s is negative; give 0 or a positive duration"},
			notes:    []string{"mode auto takes the first of nftables, iptables, ipvs that the node can run; check the file for each"},
		},
		"what another mode would refuse": {
			file: base + "mode: nftables\nipvs: {udpTimeout: -1s, excludeCIDRs: [x]}\niptables: {masqueradeBit: 32, syncPeriod: 500ms}\n",
			warnings: []string{
				"iptables.masqueradeBit: 32 has no effect in mode nftables, where nftables.masqueradeBit counts, and keeps the proxy from starting in mode iptables and ipvs: 32 is outside 0 to 31; give a number within",
				"iptables.syncPeriod: 500ms has no effect in mode nftables; set nftables.syncPeriod: 500ms",
				`ipvs.excludeCIDRs: ["x"] has no effect in mode nftables: there are no virtual servers that could be left alone, and keeps the proxy from starting in mode ipvs: entry 0, "x", is not a CIDR; give one such as 10.0.0.0/8`,
				"ipvs.udpTimeout: -1s has no effect in mode nftables: conntrack.udpTimeout and conntrack.udpStreamTimeout hold, and keeps the proxy from starting in mode ipvs: -1s is negative; give 0 or a positive duration",
				"iptables.minSyncPeriod: 1s has no effect in mode nftables, and keeps the proxy from starting in mode iptables: 1s is more than iptables.syncPeriod (500ms); give at most that",
			},
		},
		"what this mode refuses": {
			file: base + "mode: nftables\nipvs: {udpTimeout: -1s, excludeCIDRs: [x]}\n", mode: IPVS,
			problems: []string{"ipvs.udpTimeout: -1s is negative; give 0 or a positive duration", `ipvs.excludeCIDRs: entry 0, "x", is not a CIDR; give one such as 10.0.0.0/8`},
			notes:    []string{"nodePortAddresses is not set, which means primary in mode nftables, but all in mode ipvs"},
		},
		"fields that others make useless": {
			file:     base + "mode: nftables\ndetectLocalMode: NodeCIDR\ndetectLocal: {bridgeInterface: cni0, interfaceNamePrefix: veth}\nconntrack: {maxPerCore: 0, min: 7}\n",
			warnings: []string{"detectLocal.bridgeInterface: cni0 has no effect: detectLocalMode is NodeCIDR", "detectLocal.interfaceNamePrefix: veth has no effect: detectLocalMode is NodeCIDR"},
			notes:    []string{"clusterCIDR: 10.0.0.0/8 has no effect: detectLocalMode is NodeCIDR", "conntrack.min: 7 has no effect: conntrack.maxPerCore is 0, which leaves the kernel's limit alone"},
		},
		"problems and warnings together": {
			file:     base + "mode: nftable\noomScoreAdj: 5000\nconntrack: {min: some}\nportRange: 1-2\nudpIdleTimeout: 1s\n",
			problems: []string{`conntrack.min: "some" does not fit; give a whole number up to 2147483647`, `mode: "nftable" is not a mode; did you mean "nftables"?; set nftables, iptables, ipvs or auto`, "oomScoreAdj: 5000 is outside -1000 to 1000; give a number within"},
			warnings: []string{`the configuration file has an unknown field "udpIdleTimeout", which is ignored`},
		},
		"not a configuration": {
			file:     "[1]",
			problems: []string{"the configuration file is not a mapping of fields to values; write a KubeProxyConfiguration in YAML or JSON"},
		},
	}
	for name, r := range rows {
		t.Run(name, func(t *testing.T) {
			got := Check([]byte(r.file), r.mode)
			for what, pair := range map[string][2]string{
				"problems": {strings.Join(r.problems, "\n"), strings.Join(problemLines(got.Problems), "\n")},
				"warnings": {strings.Join(r.warnings, "\n"), texts(got.Warnings)},
				"notes":    {strings.Join(r.notes, "\n"), texts(got.Notes)},
			} {
				if diff := cmp.Diff(pair[0], pair[1]); diff != "" {
					t.Errorf("%s: -want +got\n%s", what, diff)
				}
			}
		})
	}
}

const loopbackEnds = "NodePorts on loopback addresses (127.0.0.1) end: only mode iptables serves them"

// A finding says in fields of its own what its text says.
func TestFindingsAreStructured(t *testing.T) {
	data, err := os.ReadFile("testdata/kubespray-masquerade-all.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := Warnings{{Where: "iptables.masqueradeAll", Value: "true", Instead: "nftables.masqueradeAll",
		Text: "iptables.masqueradeAll: true has no effect in mode nftables; set nftables.masqueradeAll: true"}}
	r := Check(data, "")
	if diff := cmp.Diff(want, r.Warnings); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if got := r.Summary(); got != "mode nftables: 0 errors, 1 warning" {
		t.Errorf("summary %q", got)
	}
	// The proxy starts with the same words.
	c := mustLoad(t, map[string]string{"file": string(data)}, "--config=file")
	if diff := cmp.Diff(want, c.Warnings); diff != "" {
		t.Errorf("at start: -want +got\n%s", diff)
	}
}

// Every field that has a section of a mode to itself is in the table of settings, and no mode has two fields for a setting.
func TestSettingsAreComplete(t *testing.T) {
	for _, field := range fieldPaths() {
		section, _, _ := strings.Cut(field, ".")
		of := section == "iptables" || section == "ipvs" || section == "nftables"
		if s := settingOf(field); (s != nil) != of {
			t.Errorf("%s: in the table of settings %t", field, s != nil)
		} else if s != nil && (len(s.fields) < len(Modes)) != (s.without != "") {
			t.Errorf("%s: %d modes have it, the others: %q", field, len(s.fields), s.without)
		}
		if field != "windowsRunAsService" && section != "winkernel" && section != "portRange" && modesOf(field) == "" {
			t.Errorf("%s is used in no mode", field)
		}
	}
}

func TestParseAsked(t *testing.T) {
	if m, err := ParseAsked("auto"); m != Auto || err != nil {
		t.Errorf("auto: %q, %v", m, err)
	}
	if _, err := ParseAsked("automatic"); err == nil || err.Error() != `"automatic" is not a mode; set nftables, iptables, ipvs or auto` {
		t.Errorf("automatic: %v", err)
	}
}

func TestParseMode(t *testing.T) {
	for _, m := range Modes {
		if got, err := ParseMode(string(m)); got != m || err != nil {
			t.Errorf("%s: %q, %v", m, got, err)
		}
	}
	for name, want := range map[string]string{
		"IPTables":    `"IPTables" is not a mode; did you mean "iptables"?; set nftables, iptables or ipvs`,
		"kernelspace": `"kernelspace" is for Windows only; set nftables, iptables or ipvs`,
		"":            `"" is not a mode; set nftables, iptables or ipvs`,
	} {
		if got, err := ParseMode(name); err == nil || err.Error() != want {
			t.Errorf("%q: mode %q, error %v, want %s", name, got, err, want)
		}
	}
}
