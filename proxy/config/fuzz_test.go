package config

import (
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/kube-proxy/config/v1alpha1"
	sigsyaml "sigs.k8s.io/yaml"
)

// FuzzFile reads anything as a configuration file. It must not panic, must say of everything that is wrong where it is and what to do, and
// what it accepts must mean the same when it is written and read again, and after a conversion.
func FuzzFile(f *testing.F) {
	for _, path := range testFiles(f) {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, byte(len(data)))
	}
	for _, text := range []string{
		"", "---\n", "[1]", "a: b: c", header, "\x00", "{", "{\"kind\": 1, \"apiVersion\": []}",
		header + "conntrack: 5\niptables: {masqueradeBit: 1e9}\nfeatureGates: {\"\": true, AllBeta: false, a.b: false}\n",
		header + "nodePortAddresses: [primary, primary, 1.2.3.4, \"::/0\", 010.0.0.0/8, 3]\nclusterCIDR: \",\"\n",
		header + "mode: ipvs\nipvs: {excludeCIDRs: [null, {}], syncPeriod: -0s, tcpTimeout: 99999999h}\n",
		header + "logging: {vmodule: [{filePattern: \"a=,\", verbosity: 1}], verbosity: 4294967295, options: {json: {infoBufferSize: -1k}}}\n",
		header + "mode: &m nftables\nhostnameOverride: *m\nbindAddress: ::\nhealthzBindAddress: \"[::]:0\"\n",
		header + "configSyncPeriod: 0\noomScoreAdj: 0x10\nclientConnection: {qps: .inf, burst: -1}\n? [a]\n: b\n",
	} {
		f.Add([]byte(text), byte(len(text)))
	}
	f.Fuzz(func(t *testing.T, data []byte, modes byte) {
		checkFile(t, data, append([]Mode{""}, Modes...)[modes%4], Modes[modes/4%3])
	})
}

// TestRandomFiles does the same with files that set fields that exist to values of all kinds.
func TestRandomFiles(t *testing.T) {
	values := strings.Fields(`true false 0 1 14 32 -1 5000 1.5 null "" x 5s 30s -1s 0s 24h 10.0.0.0/8 fd00::/8 10.0.0.0/8,fd00::/8 0.0.0.0 :: primary ` +
		`nftables iptables ipvs NodeCIDR ClusterCIDR rr [] {} [primary] [primary,localhost] [10.1.0.0/16] [x] ["::/0",all] {a:1} 1.36 0.0.0.0:10256 /k`)
	rng := rand.New(rand.NewPCG(1, 2))
	accepted := 0
	for range 600 {
		tree := map[string]any{"apiVersion": v1alpha1.SchemeGroupVersion.String(), "kind": kind, "mode": string(Modes[rng.IntN(3)])}
		for range 1 + rng.IntN(3) {
			var value any
			if err := sigsyaml.Unmarshal([]byte(values[rng.IntN(len(values))]), &value); err != nil {
				t.Fatal(err)
			}
			put(tree, strings.Split(fieldPaths()[rng.IntN(len(fieldPaths()))], "."), value)
		}
		data, err := sigsyaml.Marshal(tree)
		if err != nil {
			t.Fatal(err)
		}
		if checkFile(t, data, "", Modes[rng.IntN(3)]) {
			accepted++
		}
		if t.Failed() {
			t.Fatalf("file\n%s", data)
		}
	}
	if accepted < 60 || accepted > 540 {
		t.Errorf("%d of 600 files are accepted: too few or too many to say anything", accepted)
	}
}

// checkFile checks what is said of a file, and returns whether it is accepted.
func checkFile(t *testing.T, data []byte, from, to Mode) bool {
	t.Helper()
	r := Check(data, from)
	for _, p := range r.Problems {
		if !strings.Contains(p.Text, "; ") && !strings.Contains(p.Text, "give ") {
			t.Errorf("%s: no remedy in %q", p.Where, p.Text)
		}
	}
	for _, w := range append(r.Warnings, r.Notes...) {
		if w.Text == "" || w.Instead != "" && !usedIn(w.Instead, r.Mode) {
			t.Errorf("warning %+v", w)
		}
	}
	if len(r.Problems) > 0 {
		return false
	}
	checkAccepted(t, data, r.Mode, to)
	return true
}

// checkAccepted checks what was accepted in a mode, and converts it to another.
func checkAccepted(t *testing.T, data []byte, from, to Mode) {
	t.Helper()
	first := resolveFile(data, from).config
	raw, err := first.YAML()
	if err != nil {
		t.Fatal(err)
	}
	again := resolveFile(raw, "")
	if diff := cmp.Diff(flatten(first.External), flatten(again.config.External)); diff != "" || len(again.problems) > 0 {
		t.Errorf("mode %s: written and read again: %v, -before +after\n%s", from, again.problems, diff)
	}
	c, err := Convert(data, from, to)
	if err != nil {
		return // what the mode before did not use may be wrong in this one
	}
	second, err := Convert(c.File, to, to)
	if err != nil || string(second.File) != string(c.File) || len(second.Losses) > 0 {
		t.Errorf("%s to %s is not left alone: %v, %+v\n%s", from, to, err, second, c.File)
	}
}
