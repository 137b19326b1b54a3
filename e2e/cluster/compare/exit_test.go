package compare

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"turnout/e2e/cluster/plane"
	"turnout/proxy/proxytest/lab"
)

// ending is a command line that both end by themselves.
type ending struct {
	name string
	args []string
	// config is the content of the file of --config, which is not given if this is "".
	config string
	// reason is why the exit codes may differ, a piece of docs/differences.md; "" if they must be the same.
	reason string
}

const apiVersion = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n"

var endings = []ending{
	{name: "version", args: []string{"--version"}},
	{name: "version raw", args: []string{"--version=raw"}},
	{name: "help", args: []string{"--help"}},
	{name: "unknown flag", args: []string{"--no-such-flag"}},
	{name: "argument", args: []string{"argument"}},
	{name: "empty argument", args: []string{"", "--version"}},
	{name: "unknown mode", args: []string{"--proxy-mode=userspace"}},
	{name: "number that is none", args: []string{"--iptables-masquerade-bit=many"}},
	{name: "masquerade bit", args: []string{"--proxy-mode=nftables", "--iptables-masquerade-bit=32"}},
	{name: "cluster CIDR", args: []string{"--proxy-mode=nftables", "--cluster-cidr=10.244.0.0/33"}},
	{name: "two cluster CIDRs of a family", args: []string{"--proxy-mode=nftables", "--cluster-cidr=10.244.0.0/16,10.245.0.0/16"}},
	{name: "node port addresses", args: []string{"--proxy-mode=nftables", "--nodeport-addresses=everywhere"}},
	{name: "sync period", args: []string{"--proxy-mode=nftables", "--iptables-sync-period=0s"}},
	{name: "min sync period", args: []string{"--proxy-mode=nftables", "--iptables-min-sync-period=1m"}},
	{name: "oom score", args: []string{"--proxy-mode=nftables", "--oom-score-adj=1001"}},
	{name: "bind address", args: []string{"--proxy-mode=nftables", "--bind-address=localhost"}},
	{name: "health address", args: []string{"--proxy-mode=nftables", "--healthz-bind-address=localhost:1"}},
	{name: "detect local mode", args: []string{"--proxy-mode=nftables", "--detect-local-mode=Magic"}},
	{name: "bridge without name", args: []string{"--proxy-mode=nftables", "--detect-local-mode=BridgeInterface"}},
	{name: "node name of blanks", args: []string{"--proxy-mode=nftables", "--hostname-override=  "}},
	{name: "logging format", args: []string{"--proxy-mode=nftables", "--logging-format=xml"}},
	{name: "unknown feature gate", args: []string{"--feature-gates=NoSuchGate=true", "--write-config-to=/dev/null"}, reason: "misspelt ones too"},
	{name: "feature gate that is no gate", args: []string{"--feature-gates=NoSuchGate"}},
	{name: "no kubeconfig", args: []string{"--proxy-mode=nftables", "--kubeconfig=/nonexistent/kubeconfig"}},
	{name: "not in a cluster", args: []string{"--proxy-mode=nftables"}},
	{name: "no configuration file", args: []string{"--config=/nonexistent/config"}},
	{name: "empty file", config: " "},
	{name: "no YAML", config: "{"},
	{name: "another kind", config: "apiVersion: v1\nkind: Pod\n"},
	{name: "another version", config: strings.Replace(apiVersion, "v1alpha1", "v1beta9", 1)},
	{name: "wrong type", config: apiVersion + "oomScoreAdj: high\n"},
	{name: "bad value", config: apiVersion + "configSyncPeriod: -1s\n"},
	{name: "bad CIDR", config: apiVersion + "clusterCIDR: 10.0.0.0/99\n"},
	{name: "unknown field, no kubeconfig", config: apiVersion + "noSuchField: 1\nclientConnection: {kubeconfig: /nonexistent/kubeconfig}\n"},
	{name: "unknown field is written", config: apiVersion + "noSuchField: 1\n", args: []string{"--write-config-to=/dev/null"}},
	{name: "flags beside a file do not count", config: apiVersion, args: []string{"--oom-score-adj=1001", "--write-config-to=/dev/null"}},
	{name: "mode ipvs is written", config: strings.Replace(apiVersion, "nftables", "ipvs", 1), args: []string{"--write-config-to=/dev/null"}},
	{name: "mode auto is written", config: strings.Replace(apiVersion, "nftables", "auto", 1), args: []string{"--write-config-to=/dev/null"}, reason: "`mode: auto`"},
	{name: "nowhere to write to", args: []string{"--proxy-mode=nftables", "--write-config-to=/nonexistent/file"}},
	{name: "cleanup", args: []string{"--cleanup"}},
	{name: "cleanup of a mode", args: []string{"--cleanup", "--proxy-mode=nftables"}},
}

// TestExitCodes has both end on good and on bad command lines and files.
func TestExitCodes(t *testing.T) {
	program := binaries(t)
	l := lab.ForTest(t)
	for _, row := range endings {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			args := row.args
			if row.config != "" {
				file := filepath.Join(t.TempDir(), "config.conf")
				if err := os.WriteFile(file, []byte(row.config), 0o644); err != nil {
					t.Fatal(err)
				}
				args = append([]string{"--config=" + file}, args...)
			}
			upstream, upstreamSays := end(t, l, program.KubeProxy, args)
			turnout, turnoutSays := end(t, l, program.Turnout, args)
			if (upstream == turnout) != (row.reason == "") {
				t.Errorf("kube-proxy ends with %d, turnout with %d\n=== kube-proxy says\n%s\n=== turnout says\n%s", upstream, turnout, upstreamSays, turnoutSays)
			}
		})
	}
}

// end runs a program on the node until it ends by itself, and returns its exit code and the end of what it wrote.
func end(t *testing.T, l *lab.Lab, program string, args []string) (code int, says string) {
	t.Helper()
	p, err := plane.Run(l.Node(), filepath.Join(t.TempDir(), "log"), program, args...)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Ended():
	case <-time.After(90 * time.Second):
		p.Kill()
		t.Errorf("%s %v did not end", filepath.Base(program), args)
	}
	return p.ExitCode(), lastLines(p.Log(), 5)
}
