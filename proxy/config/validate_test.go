package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEachRule(t *testing.T) {
	rows := []struct{ args, file, want string }{
		// Flags are named as flags.
		{"--bind-address=10.0.0.256", "", `--bind-address: "10.0.0.256" is not an IP address; give one such as 0.0.0.0 or ::`},
		{"--healthz-bind-address=localhost:80", "", `--healthz-bind-address: "localhost:80" has no IP address before the port; give IP:port such as 0.0.0.0:10256 or [::]:10256`},
		{"--healthz-bind-address=::1:80:", "", `--healthz-bind-address: "::1:80:" has no IP address before the port; give IP:port such as 0.0.0.0:10256 or [::]:10256`},
		{"--metrics-bind-address=nowhere", "", `--metrics-bind-address: "nowhere" is not an IP address with a port; give IP:port such as 0.0.0.0:10256 or [::]:10256`},
		{"--metrics-bind-address=127.0.0.1:0", "", `--metrics-bind-address: "127.0.0.1:0" has no port from 1 to 65535; give IP:port such as 0.0.0.0:10256 or [::]:10256`},
		{"--metrics-bind-address=127.0.0.1:65536", "", `--metrics-bind-address: "127.0.0.1:65536" has no port from 1 to 65535; give IP:port such as 0.0.0.0:10256 or [::]:10256`},
		{"--metrics-port=0", "", `--metrics-port: 0 is not a port; give 1 to 65535`},
		{"--healthz-port=-1", "", `--healthz-port: -1 is not a port; give 1 to 65535`},
		{"--hostname-override= ", "", `--hostname-override: " " is blank; give the Node's name, or leave it out`},
		{"--kube-api-burst=-1", "", `--kube-api-burst: -1 is negative; give 0 or more`},
		{"--oom-score-adj=1001", "", `--oom-score-adj: 1001 is outside -1000 to 1000; give a number within`},
		{"--conntrack-min=-1", "", `--conntrack-min: -1 is outside 0 to 2147483647; give a number within`},
		{"--conntrack-max-per-core=-1", "", `--conntrack-max-per-core: -1 is outside 0 to 2147483647; give a number within`},
		{"--conntrack-tcp-timeout-established=-1s", "", `--conntrack-tcp-timeout-established: -1s is negative; give 0, which leaves the kernel's value, or a positive duration`},
		{"--conntrack-tcp-timeout-close-wait=-1s", "", `--conntrack-tcp-timeout-close-wait: -1s is negative; give 0, which leaves the kernel's value, or a positive duration`},
		{"--conntrack-udp-timeout=-1s", "", `--conntrack-udp-timeout: -1s is negative; give 0 or a positive duration`},
		{"--conntrack-udp-timeout-stream=-1s", "", `--conntrack-udp-timeout-stream: -1s is negative; give 0 or a positive duration`},
		{"--config-sync-period=-1s", "", `--config-sync-period: -1s is not positive; give a duration such as 15m0s`},
		{"--iptables-sync-period=0s", "", `--iptables-sync-period: 0s is not positive; give a duration such as 30s`},
		{"--iptables-sync-period=-5s", "", `--iptables-sync-period: -5s is not positive; give a duration such as 30s`},
		{"--iptables-min-sync-period=-1s", "", `--iptables-min-sync-period: -1s is negative; give 0 or a positive duration`},
		{"--iptables-min-sync-period=1m", "", `--iptables-min-sync-period: 1m0s is more than --iptables-sync-period (30s); give at most that`},
		{"--proxy-mode=nftable", "", `--proxy-mode: "nftable" is not a mode; did you mean "nftables"?; set nftables, iptables, ipvs or auto`},
		{"--proxy-mode=kernelspace", "", `--proxy-mode: "kernelspace" is for Windows only; set nftables, iptables, ipvs or auto`},
		{"--detect-local-mode=clustercidr", "", `--detect-local-mode: "clustercidr" is not a mode; did you mean "ClusterCIDR"?; set one of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix`},
		{"--detect-local-mode=BridgeInterface", "", `--pod-bridge-interface: is empty; name the bridge, as --detect-local-mode is BridgeInterface`},
		{"--detect-local-mode=InterfaceNamePrefix", "", `--pod-interface-name-prefix: is empty; give the prefix, as --detect-local-mode is InterfaceNamePrefix`},
		{"--cluster-cidr=10.0.0.0", "", `--cluster-cidr: "10.0.0.0" is not a CIDR; give one such as 10.244.0.0/16`},
		{"--cluster-cidr=10.0.0.0/8,10.1.0.0/16", "", `--cluster-cidr: "10.0.0.0/8,10.1.0.0/16": give one CIDR, or one of each family such as 10.244.0.0/16,fd00:244::/56`},
		{"--cluster-cidr=10.0.0.0/8,fd00::/8,10.1.0.0/16", "", `--cluster-cidr: "10.0.0.0/8,fd00::/8,10.1.0.0/16": give one CIDR, or one of each family such as 10.244.0.0/16,fd00:244::/56`},
		{"--nodeport-addresses=10.0.0.1", "", `--nodeport-addresses: entry 0, "10.0.0.1", is not a CIDR; write 10.0.0.1/32`},
		{"--nodeport-addresses=primary,Primary", "", `--nodeport-addresses: entry 1, "Primary", is not a CIDR; did you mean "primary"?; give a CIDR such as 192.168.0.0/24, or primary, localhost or all`},
		{"--nodeport-addresses=primary,primary", "", `--nodeport-addresses: entry 1, "primary", is there twice; remove one`},
		{"--show-hidden-metrics-for-version=1.30", "", `--show-hidden-metrics-for-version: "1.30" is not the previous minor version; give 1.36 or nothing`},
		{"--logging-format=xml", "", `--logging-format: invalid value: "xml": Unsupported log format; give text or json`},
		{"--log-flush-frequency=-1s", "", `--log-flush-frequency: invalid value: "-1s": Must be greater than zero; give a duration such as 5s`},
		{"--logging-format=json --vmodule=a=1", "", `--vmodule: forbidden: Only supported for text log format; give file=N with logging format text, or leave it out`},
		{"--log-text-split-stream", "", `--log-text-split-stream: forbidden: Feature LoggingAlphaOptions is disabled; turn the feature gate on, or leave it out`},
		{"--feature-gates=NFTablesProxyMode=false", "", `--feature-gates: NFTablesProxyMode=false: the gate is locked to true; remove it`},
		{"--sync-quiet-period=-1ms", "", `--sync-quiet-period: -1ms is negative; give 0 or a short time such as 10ms`},
		{"--sync-quiet-period=1s", "", `--sync-max-delay: 100ms is less than --sync-quiet-period (1s); give at least that`},
		{"--sync-max-delay=1m", "", `--sync-max-delay: 1m0s is more than the sync period (30s); give at most that`},
		{"--manifests=/m --kubeconfig=/k", "", `--kubeconfig: excludes --manifests (/m); give only one of them`},
		{"--manifests=/m --master=http://a", "", `--master: excludes --manifests (/m); give only one of them`},
		{"--config=absent", "", `--config: open absent: no such file or directory; give the path of a readable file`},
		// Fields of the file are named by their paths.
		{"", header + "bindAddress: nowhere", `bindAddress: "nowhere" is not an IP address; give one such as 0.0.0.0 or ::`},
		{"", header + "healthzBindAddress: 0.0.0.0:0", `healthzBindAddress: "0.0.0.0:0" has no port from 1 to 65535; give IP:port such as 0.0.0.0:10256 or [::]:10256`},
		{"", header + "hostnameOverride: '  '", `hostnameOverride: "  " is blank; give the Node's name, or leave it out`},
		{"", header + "nftables: {masqueradeBit: 32}", `nftables.masqueradeBit: 32 is outside 0 to 31; give a number within`},
		{"", header + "nftables: {syncPeriod: -1s}", `nftables.syncPeriod: -1s is not positive; give a duration such as 30s`},
		{"", header + "nftables: {minSyncPeriod: 31s}", `nftables.minSyncPeriod: 31s is more than nftables.syncPeriod (30s); give at most that`},
		{"", header + "detectLocalMode: BridgeInterface", `detectLocal.bridgeInterface: is empty; name the bridge, as detectLocalMode is BridgeInterface`},
		{"--detect-local-mode=BridgeInterface --pod-bridge-interface=bridge-of-the-pods", "", `--pod-bridge-interface: "bridge-of-the-pods" is no name of an interface; give at most 15 characters without blanks, / and :`},
		{"", header + "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: 'my veth'}", `detectLocal.interfaceNamePrefix: "my veth" is no name of an interface; give at most 15 characters without blanks, / and :`},
		{"", header + "oomScoreAdj: -1001", `oomScoreAdj: -1001 is outside -1000 to 1000; give a number within`},
		{"-v=1 --log-flush-frequency=-1s", header, `--log-flush-frequency: invalid value: "-1s": Must be greater than zero; give a duration such as 5s`},
		// What has the wrong type, or is no configuration at all.
		{"", header + "conntrack: {min: many}", `conntrack.min: "many" does not fit; give a whole number up to 2147483647`},
		{"", header + "oomScoreAdj: 99999999999", `oomScoreAdj: 99999999999 does not fit; give a whole number up to 2147483647`},
		{"", header + "configSyncPeriod: 15", `configSyncPeriod: 15 does not fit; give a duration such as "30s" or "15m"`},
		{"", header + "conntrack: {udpTimeout: long}", `conntrack.udpTimeout: "long" does not fit; give a duration such as "30s" or "15m"`},
		{"", header + "enableProfiling: 'on'", `enableProfiling: "on" does not fit; give true or false`},
		{"", header + "clusterCIDR: 10", `clusterCIDR: 10 does not fit; give a string, in quotes`},
		{"", header + "nodePortAddresses: primary", `nodePortAddresses: "primary" does not fit; give a list`},
		{"", header + "conntrack: 5", `conntrack: 5 does not fit; give a mapping`},
		{"", "kind: KubeProxyConfiguration", `apiVersion: is missing; write apiVersion: kubeproxy.config.k8s.io/v1alpha1`},
		{"", "apiVersion: kubeproxy.config.k8s.io/v1alpha2\nkind: KubeProxyConfiguration", `apiVersion: kubeproxy.config.k8s.io/v1alpha2 is not supported; write apiVersion: kubeproxy.config.k8s.io/v1alpha1`},
		{"", "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeletConfiguration", `kind: KubeletConfiguration is not supported; write kind: KubeProxyConfiguration`},
		{"", "[1, 2]", `--config: the configuration file is not a mapping of fields to values; write a KubeProxyConfiguration in YAML or JSON`},
		{"", "# nothing\n---\n", `--config: the configuration file is empty; write a KubeProxyConfiguration in YAML or JSON`},
		{"", "a: b: c", `--config: yaml: mapping values are not allowed in this context; write a KubeProxyConfiguration in YAML or JSON`},
	}
	for _, r := range rows {
		args := splitArgs(r.args)
		if r.file != "" {
			args = append(args, "--config=file")
		}
		_, err := load(map[string]string{"file": r.file}, args...)
		if diff := cmp.Diff([]string{r.want}, problemLines(err)); diff != "" {
			t.Errorf("%s %q: -want +got\n%s", r.args, r.file, diff)
		}
	}
}

// splitArgs splits at blanks that a dash follows, so that values may have blanks.
func splitArgs(s string) []string {
	if s == "" {
		return nil
	}
	args := strings.Split(s, " --")
	for i := range args[1:] {
		args[i+1] = "--" + args[i+1]
	}
	return args
}

// Settings of mode ipvs are checked in that mode.
func TestIPVSSettings(t *testing.T) {
	_, err := load(nil, "--proxy-mode=ipvs", "--ipvs-sync-period=-1s", "--ipvs-min-sync-period=-1s", "--ipvs-tcp-timeout=-1s",
		"--ipvs-tcpfin-timeout=-1s", "--ipvs-udp-timeout=-1s", "--ipvs-exclude-cidrs=10.0.0.0/8,x")
	want := []string{
		`--ipvs-sync-period: -1s is not positive; give a duration such as 30s`,
		`--ipvs-min-sync-period: -1s is negative; give 0 or a positive duration`,
		`--ipvs-tcp-timeout: -1s is negative; give 0 or a positive duration`,
		`--ipvs-tcpfin-timeout: -1s is negative; give 0 or a positive duration`,
		`--ipvs-udp-timeout: -1s is negative; give 0 or a positive duration`,
		`--ipvs-exclude-cidrs: entry 1, "x", is not a CIDR; give one such as 10.0.0.0/8`,
	}
	if diff := cmp.Diff(want, problemLines(err)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	mustLoad(t, nil, "--ipvs-udp-timeout=-1s") // of no interest in mode nftables
}

func TestProblemsOfFileAndFlagsTogether(t *testing.T) {
	file := header + "mode: userspace\nclusterCIDR: 10.0.0.0/99\nconntrack: {min: x, udpTimeout: soon, maxPerCore: -1}\n"
	_, err := load(map[string]string{"file": file}, "--config=file", "--nonsense", "--hostname-override= ")
	want := []string{
		`--nonsense: is not a flag; see --help`,
		`conntrack.min: "x" does not fit; give a whole number up to 2147483647`,
		`conntrack.udpTimeout: "soon" does not fit; give a duration such as "30s" or "15m"`,
		`--hostname-override: " " is blank; give the Node's name, or leave it out`,
		`mode: "userspace" is not a mode; set nftables, iptables, ipvs or auto`,
		`conntrack.maxPerCore: -1 is outside 0 to 2147483647; give a number within`,
		`clusterCIDR: "10.0.0.0/99" is not a CIDR; give one such as 10.244.0.0/16`,
	}
	if diff := cmp.Diff(want, problemLines(err)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestCleanupIsPossibleAfterEveryMode(t *testing.T) {
	for _, mode := range []string{"iptables", "ipvs", "nftables"} {
		if c := mustLoad(t, nil, "--cleanup", "--proxy-mode="+mode); !c.CleanupAndExit {
			t.Errorf("mode %s: cleanup is not asked for", mode)
		}
	}
}
