package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"turnout/proxy/proxytest"
)

// finish runs a command to its end; start starts it, wherever that is.
func finish(t *testing.T, cmd *exec.Cmd, start func(*exec.Cmd) error) ran {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := start(cmd); err != nil {
		t.Fatalf("start %s: %v", cmd, err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", cmd, err)
	}
	return ran{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// preflight runs turnout preflight in the network namespace of the calling thread, with further variables of the environment.
func preflight(t *testing.T, environment []string, args ...string) ran {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, append([]string{"preflight"}, args...)...)
	cmd.Env = append(os.Environ(), environment...)
	return finish(t, cmd, (*exec.Cmd).Start)
}

var comments = regexp.MustCompile(`(?m)^#.*\n`)

// nodeDump is everything that preflight might change on a node, but for what changes by itself, and for modules, which tests beside this one may load:
// TestKernelReadOnly of proxy/preflight looks at those, in a machine of its own.
func nodeDump(t *testing.T) string {
	t.Helper()
	dump := proxytest.Command(t, "nft -a list ruleset") + proxytest.Command(t, "iptables-legacy-save") + proxytest.Command(t, "ip6tables-legacy-save") + proxytest.Command(t, "ip -o link") +
		proxytest.Command(t, "sysctl net.ipv4.ip_forward net.ipv4.conf net.ipv6.conf.all.forwarding") + proxytest.Command(t, "cat /proc/net/ip_tables_names /proc/net/ip6_tables_names")
	return comments.ReplaceAllString(dump, "")
}

// A scene is a node by the commands that made it, and what preflight says there.
type scene struct {
	name        string
	commands    []string
	environment []string
	args        []string
	code        int
	// says is what must be in the output, lacks what must not.
	says, lacks []string
}

const fine = "mode nftables: ok\n"

func scenes(t *testing.T) []scene {
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "kube-proxy.conf")
	writeFile(t, file, strings.Replace(kubespray, "nodePortAddresses: []", "nodePortAddresses: [primary]", 1))
	if err := os.WriteFile(filepath.Join(dir, "10-calico.conflist"), []byte(`{"plugins": [{"type": "calico"}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	cali := []string{"iptables-nft -N cali-FORWARD", "iptables-nft -A FORWARD -j cali-FORWARD"}
	kubeProxyNFT := []string{"iptables-nft -t nat -N KUBE-SERVICES", "iptables-nft -t nat -N KUBE-NODEPORTS", "iptables-nft -t nat -A PREROUTING -j KUBE-SERVICES"}
	unreadable := []string{"iptables-nft -A INPUT -p tcp --dport 22 -j ACCEPT", "nft add rule ip filter INPUT iifname wt0 ct state established,related accept"}
	const calico = "Calico's Felix uses iptables"
	return []scene{
		{name: "clean", args: []string{"--to=nftables"}, says: []string{fine, "takes what mode nftables needs for IPv4 and IPv6", "the kernel has no rules of a proxy"}},
		{name: "clean, auto", args: []string{"--to=auto"}, says: []string{"auto chooses mode nftables", fine}},
		{name: "clean, iptables", args: []string{"--to=iptables"}, says: []string{"mode iptables: ok\n", "IPv6: "}},
		{name: "Felix with iptables", commands: cali, args: []string{"--to=nftables"}, code: 1,
			says: []string{calico, "set nftablesMode of FelixConfiguration to Auto or Enabled (Calico 3.29 or later", "mode nftables: 1 warning\n"}},
		{name: "Felix with iptables, going back", commands: cali, args: []string{"--to=iptables"}, says: []string{calico, "mode iptables: ok\n"}},
		{name: "Felix with iptables-legacy", commands: []string{"iptables-legacy -t raw -N cali-PREROUTING"}, args: []string{"--to=nftables"}, code: 1, says: []string{calico + " (chains cali-… of iptables-legacy)"}},
		{name: "Felix with nftables", commands: []string{"nft add table ip calico", "nft add chain ip calico filter-cali-FORWARD"}, args: []string{"--to=nftables"},
			says: []string{"Calico's Felix uses nftables", fine}, lacks: []string{calico}},
		{name: "Calico without rules", args: []string{"--to=nftables", "--cni-dir=" + dir}, says: []string{"Calico is there, but has no rules", fine}},
		{name: "a rule that iptables cannot read", commands: unreadable, args: []string{"--to=iptables"}, code: 1,
			says: []string{"cannot read table filter for IPv4", "$HANDLE", "it looks like one of NetBird", "nft -a list table ip filter shows it"}},
		{name: "a rule that iptables cannot read, for nftables", commands: unreadable, args: []string{"--to=nftables"}, says: []string{"cannot read table filter for IPv4", "$HANDLE", fine}},
		{name: "kube-proxy in both variants", commands: append(slices.Clone(kubeProxyNFT), "iptables-legacy -t nat -N KUBE-SERVICES", "iptables-legacy -t nat -A PREROUTING -j KUBE-SERVICES"),
			args: []string{"--to=iptables"}, code: 1, says: []string{"warning  both iptables-nft and iptables-legacy have rules of a proxy", "those of nft are used for IPv4 ("}},
		{name: "kube-proxy in both variants, kubelet in one", commands: append(slices.Clone(kubeProxyNFT), "iptables-legacy -t nat -N KUBE-SERVICES", "iptables-legacy -t mangle -N KUBE-IPTABLES-HINT"),
			args: []string{"--to=iptables"}, code: 1, says: []string{"those of legacy are used for IPv4 (kubelet's chain KUBE-IPTABLES-HINT is there)"}},
		{name: "kube-proxy's mode iptables", commands: append([]string{"sysctl -w net.ipv4.conf.all.route_localnet=1"}, kubeProxyNFT...), args: []string{"--to=nftables"}, code: 1,
			says: []string{"rules of kube-proxy in mode iptables, of iptables-nft, for IPv4", "NodePorts end on loopback addresses", "primary addresses only"}},
		{name: "kube-proxy's mode iptables, and a file", commands: kubeProxyNFT, args: []string{"--to=nftables", "--config=" + file}, code: 1,
			says: []string{kubesprayWarning, "mode nftables: 1 warning\n"}, lacks: []string{"primary addresses only"}},
		{name: "somebody translates before", commands: []string{"nft add table inet vpn", "nft add chain inet vpn pre { type nat hook prerouting priority -110 ; }", "nft add rule inet vpn pre tcp dport 80 redirect to :81"},
			args: []string{"--to=nftables"}, code: 1, says: []string{"table inet vpn (chain pre) changes the destination of packets before Services do"}},
		{name: "no programs, iptables", environment: []string{"PATH=" + dir}, args: []string{"--to=iptables"}, code: 2,
			says: []string{"this node has no programs of iptables: iptables-nft and ip6tables-nft cannot be run", "install iptables 1.8 or later, or use mode nftables", "mode iptables: 1 blocked\n"}},
		{name: "no programs, nftables", environment: []string{"PATH=" + dir}, args: []string{"--to=nftables"}, says: []string{fine}},
		{name: "no mode", args: []string{"--to=nft", "--output=xml"}, code: 2, says: []string{`--to: "nft" is not a mode`, "or auto", `--output: "xml" is not a format`}},
		{name: "no flag", args: []string{"--from=nft"}, code: 2, says: []string{"unknown flag: --from"}},
	}
}

// TestPreflight makes nodes and compares what preflight says about them, by exit code and output. None of them is changed by it.
func TestPreflight(t *testing.T) {
	t.Parallel()
	for _, s := range scenes(t) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			proxytest.InNamespace(t, func() {
				for _, c := range s.commands {
					proxytest.Command(t, c)
				}
				before := nodeDump(t)
				handle := regexp.MustCompile(`ct state .*# handle (\d+)`).FindStringSubmatch(before)
				got := preflight(t, s.environment, append([]string{"--metrics-address=", "--cni-dir=/nowhere"}, s.args...)...)
				if after := nodeDump(t); after != before {
					t.Errorf("before:\n%s\nafter:\n%s", before, after)
				}
				text := got.stdout + got.stderr
				for _, say := range s.says {
					if say == "$HANDLE" {
						say = fmt.Sprintf("rule handle %s of chain INPUT in table filter", handle[1])
					}
					if !strings.Contains(text, say) {
						t.Errorf("no %q", say)
					}
				}
				for _, lack := range s.lacks {
					if strings.Contains(text, lack) {
						t.Errorf("there is %q", lack)
					}
				}
				if got.code != s.code {
					t.Errorf("exit code %d, want %d", got.code, s.code)
				}
				if t.Failed() {
					t.Log(text)
				}
			})
		})
	}
}

// Mode ipvs is blocked where the kernel has no IPVS, and the missing part is named; auto does not choose it.
func TestPreflightWithoutIPVS(t *testing.T) {
	t.Parallel()
	proxytest.InNamespace(t, func() {
		for _, path := range []string{"/proc/net/ip_vs", "/proc/modules"} {
			if _, err := os.Stat(path); err == nil {
				t.Skipf("needs a kernel without IPVS and without modules: there is %s", path)
			}
		}
		got := preflight(t, nil, "--to=ipvs", "--metrics-address=")
		if got.code != 2 || !strings.Contains(got.stdout, "the kernel has no IPVS (load the module ip_vs on the node: modprobe ip_vs)") {
			t.Errorf("%+v", got)
		}
	})
}

// onNode runs the binary on the node.
func (c *cluster) onNode(args ...string) ran {
	c.t.Helper()
	path, err := binary()
	if err != nil {
		c.t.Fatal(err)
	}
	return finish(c.t, exec.Command(path, args...), c.Node().Start)
}

// Beside a proxy that runs, its mode and its rules are told, as JSON too.
func TestPreflightBesideProxy(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.start()
	got := c.onNode("preflight", "--to=iptables", "-o=json")
	var report struct {
		Asked, Mode, Level, Kernel string
		Now                        []struct {
			Mode, By string
			Families []string
		}
		Findings []struct{ Level, Topic, ID, Message, Remedy string }
	}
	if err := json.Unmarshal([]byte(got.stdout), &report); err != nil {
		t.Fatalf("%v: %+v", err, got)
	}
	if report.Mode != "iptables" || report.Level != "warning" || got.code != 1 || got.stderr != "" || report.Kernel == "" {
		t.Errorf("%+v", got)
	}
	if now := fmt.Sprint(report.Now); now != "[{nftables Turnout [IPv4 IPv6]}]" {
		t.Errorf("now: %s", now)
	}
	var ids []string
	for _, f := range report.Findings {
		ids = append(ids, f.ID)
	}
	for _, id := range []string{"proxy-runs", "rules-of-proxy", "nodeport-addresses", "programs-found"} {
		if !slices.Contains(ids, id) {
			t.Errorf("no %s among %v", id, ids)
		}
	}
	if got := c.onNode("preflight", "--to=nftables"); got.code != 0 || !strings.Contains(got.stdout, "a proxy runs in mode nftables") {
		t.Errorf("%+v", got)
	}
}
