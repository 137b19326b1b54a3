package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAllArgumentProblemsAtOnce(t *testing.T) {
	_, err := load(nil, "--iptables-sync-period=30", "--conntrack-tcp-timeout-established", "one day", "--conntrack-mn=4", "start",
		"--cleanup=perhaps", "-q", "--bind-address=nowhere", "--oom-score-adj=99999999999", "--feature-gates=A", "-config=x",
		"--clean-up", "now", "--nothing-like-it", "value", "--version=new", "--v=high", "--kube-api-qps=fast", "--", "-v=3", "--cluster-cidr")
	want := []string{
		`--iptables-sync-period: "30" does not fit; give a duration such as 30s or 15m`,
		`--conntrack-tcp-timeout-established: "one day" does not fit; give a duration such as 30s or 15m`,
		`--conntrack-mn: is not a flag; did you mean --conntrack-min?`,
		`"start": is neither a command nor a flag; remove it, or put a value behind its flag with "="`,
		`--cleanup: "perhaps" does not fit; give true or false`,
		`-q: is not a flag; see --help`,
		`--oom-score-adj: "99999999999" is out of range; give a whole number`,
		`--feature-gates: "A": malformed pair, expect string=bool; give name=true or name=false, separated by commas`,
		`-config: is not a flag; did you mean --config?`,
		`--clean-up: is not a flag; did you mean --cleanup?`,
		`"now": is neither a command nor a flag; remove it, or put a value behind its flag with "="`,
		`--nothing-like-it: is not a flag; see --help`,
		`--version: "new" does not fit; give true, false or raw`,
		`--v: "high" does not fit; give a whole number`,
		`--kube-api-qps: "fast" does not fit; give a number`,
		`"-v=3": is neither a command nor a flag; remove it, or put a value behind its flag with "="`,
		`"--cluster-cidr": is neither a command nor a flag; remove it, or put a value behind its flag with "="`,
		`--bind-address: "nowhere" is not an IP address; give one such as 0.0.0.0 or ::`,
	}
	if diff := cmp.Diff(want, problemLines(err)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if head, _, _ := strings.Cut(err.Error(), "\n"); head != "18 problems:" {
		t.Errorf("the answer starts with %q", head)
	}
}

func TestMissingValue(t *testing.T) {
	_, err := load(nil, "--cluster-cidr=10.0.0.0/8", "--conntrack-min")
	want := []string{"--conntrack-min: has no value; give a whole number"}
	if diff := cmp.Diff(want, problemLines(err)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if got := err.Error(); got != "1 problem:\n  "+want[0] {
		t.Errorf("a single problem reads %q", got)
	}
}

func TestFormsOfArguments(t *testing.T) {
	for _, args := range [][]string{
		{"--v=4", "--oom-score-adj=-5"}, {"-v", "4", "--oom-score-adj", "-5"}, {"-v4", "--oom_score_adj=-5"}, {"-v=4", "--oom-score-adj=1", "--oom-score-adj=-5"},
	} {
		c := mustLoad(t, nil, args...)
		if c.Logging.Verbosity != 4 || c.OOMScoreAdj != -5 {
			t.Errorf("%q: verbosity %d, oom score %d", args, c.Logging.Verbosity, c.OOMScoreAdj)
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	rows := []struct {
		args    string
		help    bool
		version string
	}{
		{"", false, ""}, {"-h", true, ""}, {"--help --wrong", true, ""}, {"--version", false, "true"},
		{"--version=raw", false, "raw"}, {"--version=false", false, ""},
	}
	for _, r := range rows {
		f := NewFlags()
		f.Parse(strings.Fields(r.args))
		if f.Help() != r.help || f.Version() != r.version {
			t.Errorf("%q: help %t, version %q", r.args, f.Help(), f.Version())
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"config", "cleanup", "conntrack-min", "conntrack-max-per-core", "cluster-cidr"}
	rows := map[string]string{
		"conntrackmin": "conntrack-min", "Cluster-Cidr": "cluster-cidr", "clutser-cidr": "cluster-cidr", "configs": "config",
		"zzz": "", "": "", "x": "",
	}
	for word, want := range rows {
		if got := nearest(word, names); got != want {
			t.Errorf("nearest to %q: %q, want %q", word, got, want)
		}
	}
}
