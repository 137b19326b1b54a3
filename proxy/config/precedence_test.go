package config

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"
	logsapi "k8s.io/component-base/logs/api/v1"
)

// valueFor returns a valid value for a flag that is not its default.
func valueFor(f *pflag.Flag) string {
	special := map[string]string{
		"bind-address": "::", "healthz-bind-address": "[::1]:1", "metrics-bind-address": "[::1]:2", "proxy-mode": "nftables",
		"detect-local-mode": "NodeCIDR", "cluster-cidr": "10.0.0.0/8", "show-hidden-metrics-for-version": "1.36",
		"nodeport-addresses": "all", "iptables-min-sync-period": "3s", "iptables-sync-period": "40s", "feature-gates": "AllBeta=false",
	}
	if v, ok := special[f.Name]; ok {
		return v
	}
	switch f.Value.Type() {
	case "bool":
		return map[string]string{"true": "false", "false": "true"}[f.DefValue]
	case "duration":
		return "7s"
	case "int32", "float32":
		return "17"
	}
	return "other"
}

func TestFlagsBesideFile(t *testing.T) {
	files := map[string]string{"file": header}
	plain := mustLoad(t, files, "--config=file")
	for name, class := range NewFlags().class {
		if class == classAlways {
			continue
		}
		flag := NewFlags().FlagSet().Lookup(name)
		c := mustLoad(t, files, "--config=file", "--"+name+"="+valueFor(flag))
		if diff := cmp.Diff(plain.External, c.External); diff != "" {
			t.Errorf("--%s counts beside a file: -without +with\n%s", name, diff)
		}
		if len(c.Warnings) != len(plain.Warnings)+1 || !strings.HasPrefix(c.Warnings[0].Text, "--"+name+" is ignored") {
			t.Errorf("--%s: warnings %q", name, c.Warnings)
		}
	}
}

func TestFlagsThatCountBesideFile(t *testing.T) {
	files := map[string]string{"file": header + `hostnameOverride: a
clientConnection: {kubeconfig: /k}
featureGates: {LoggingAlphaOptions: true}
logging: {format: json, verbosity: 1, flushFrequency: 1s, options: {text: {splitStream: true}, json: {infoBufferSize: 1k}}}
`}
	c := mustLoad(t, files, "--config=file")
	got := []any{c.HostnameOverride, c.Logging.Format, int(c.Logging.Verbosity), c.Logging.FlushFrequency.Duration.Duration,
		c.Logging.Options.Text.SplitStream, c.Logging.Options.JSON.SplitStream}
	if diff := cmp.Diff([]any{"a", "json", 1, time.Second, true, false}, got); diff != "" {
		t.Errorf("without flags: -want +got\n%s", diff)
	}
	c = mustLoad(t, files, "--config=file", "--hostname-override=B", "--master=http://m", "--cleanup", "--init-only", "--write-config-to=/w",
		"--logging-format=text", "-v=5", "--vmodule=a=2", "--log-flush-frequency=9s", "--log-text-split-stream=false",
		"--log-text-info-buffer-size=2k", "--log-json-split-stream", "--log-json-info-buffer-size=3k",
		"--sync-quiet-period=1ms", "--sync-max-delay=2ms", "--protect-table")
	got = []any{c.HostnameOverride, c.Client.Kubeconfig, c.Client.Master, c.CleanupAndExit, c.InitOnly, c.WriteConfigTo, c.ConfigFile,
		c.Logging.Format, int(c.Logging.Verbosity), len(c.Logging.VModule), c.Logging.FlushFrequency.Duration.Duration,
		c.Logging.Options.Text.SplitStream, c.Logging.Options.Text.InfoBufferSize.String(),
		c.Logging.Options.JSON.SplitStream, c.Logging.Options.JSON.InfoBufferSize.String(),
		c.Sync.QuietPeriod, c.Sync.MaxDelay, c.ProtectTable}
	want := []any{"b", "/k", "http://m", true, true, "/w", "file", "text", 5, 1, 9 * time.Second, false, "2k", true, "3k",
		time.Millisecond, 2 * time.Millisecond, true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("with flags: -want +got\n%s", diff)
	}
	if c := mustLoad(t, files, "--config=file", "--hostname-override="); c.HostnameOverride != "a" {
		t.Errorf("with an empty flag: name %q", c.HostnameOverride)
	}
	if c := mustLoad(t, files, "--config=file", "--manifests=/m"); c.Manifests != "/m" || !strings.Contains(texts(c.Warnings), "clientConnection.kubeconfig is ignored") {
		t.Errorf("manifests %q, warnings %q", c.Manifests, c.Warnings)
	}
}

// Patterns of the command line come before those of the file.
func TestVModuleBesideFile(t *testing.T) {
	c := mustLoad(t, map[string]string{"file": header + "logging: {vmodule: [{filePattern: a, verbosity: 1}, {filePattern: b, verbosity: 2}]}\n"}, "--config=file", "--vmodule=a=3")
	want := logsapi.VModuleConfiguration{{FilePattern: "a", Verbosity: 3}, {FilePattern: "a", Verbosity: 1}, {FilePattern: "b", Verbosity: 2}}
	if diff := cmp.Diff(want, c.Logging.VModule); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestServerAddresses(t *testing.T) {
	rows := []struct{ args, healthz, metrics string }{
		{"", "0.0.0.0:10256", "127.0.0.1:10249"},
		{"--bind-address=192.0.2.1", "0.0.0.0:10256", "127.0.0.1:10249"},
		{"--bind-address=2001:db8::1", "[::]:10256", "[::1]:10249"},
		{"--bind-address=:: --healthz-bind-address=127.0.0.1 --metrics-bind-address=0.0.0.0", "127.0.0.1:10256", "0.0.0.0:10249"},
		{"--healthz-bind-address=[::1]:5 --metrics-bind-address=::", "[::1]:5", "[::]:10249"},
		{"--healthz-port=1 --metrics-port=2", "0.0.0.0:1", "127.0.0.1:2"},
		{"--bind-address=:: --healthz-port=1 --metrics-port=2", "[::]:1", "[::1]:2"},
		{"--healthz-port=1 --healthz-bind-address=127.0.0.1:7", "127.0.0.1:7", "127.0.0.1:10249"},
		{"--healthz-port=0", "", "127.0.0.1:10249"},
		{"--healthz-port=0 --healthz-bind-address=127.0.0.1", "", "127.0.0.1:10249"},
		{"--healthz-port=0 --healthz-bind-address=127.0.0.1:7", "", "127.0.0.1:10249"},
		{"--healthz-bind-address=", "", "127.0.0.1:10249"},
		{"--metrics-bind-address=", "0.0.0.0:10256", "127.0.0.1:10249"},
	}
	for _, r := range rows {
		c := mustLoad(t, nil, strings.Fields(r.args)...)
		var healthz netip.AddrPort
		if r.healthz != "" {
			healthz = netip.MustParseAddrPort(r.healthz)
		}
		if c.HealthzBindAddress != healthz || c.MetricsBindAddress.String() != r.metrics {
			t.Errorf("%s: health server %v, metrics server %v", r.args, c.HealthzBindAddress, c.MetricsBindAddress)
		}
	}
}

func TestModeSections(t *testing.T) {
	files := map[string]string{
		"iptables": header + "iptables: {minSyncPeriod: 5s, syncPeriod: 9s, masqueradeAll: true, masqueradeBit: 3}\n",
		"nftables": header + "mode: nftables\nnftables: {minSyncPeriod: 1s, syncPeriod: 9s, masqueradeAll: true, masqueradeBit: 3}\n",
	}
	type row struct {
		period, least time.Duration
		all           bool
		bit           uint8
		warnings      int
	}
	rows := map[string]row{
		"--config=iptables --cluster-cidr=x": {30 * time.Second, 0, false, 14, 6},
		"--config=nftables":                  {9 * time.Second, time.Second, true, 3, 1},
		"--iptables-sync-period=8s --iptables-min-sync-period=2s --masquerade-all --cluster-cidr=10.0.0.0/8": {8 * time.Second, 2 * time.Second, true, 14, 0},
		"--iptables-min-sync-period=1s --iptables-masquerade-bit=3 --cluster-cidr=10.0.0.0/8":                {30 * time.Second, time.Second, false, 14, 1},
		"--iptables-min-sync-period=0s --ipvs-sync-period=3s --cluster-cidr=10.0.0.0/8":                      {30 * time.Second, 0, false, 14, 1},
		"--iptables-min-sync-period=0s --proxy-mode=iptables --cluster-cidr=10.0.0.0/8":                      {30 * time.Second, 0, false, 14, 0},
		"--proxy-mode=iptables --cluster-cidr=10.0.0.0/8":                                                    {30 * time.Second, time.Second, false, 14, 0},
	}
	for args, want := range rows {
		c := mustLoad(t, files, strings.Fields(args)...)
		got := row{c.Sync.Period, c.Sync.MinPeriod, c.MasqueradeAll, c.MasqueradeBit, len(c.Warnings)}
		if got != want {
			t.Errorf("%s: %+v, want %+v (%q)", args, got, want, c.Warnings)
		}
	}
}

func TestWarnings(t *testing.T) {
	const cidr = "--cluster-cidr=10.0.0.0/8,fd00::/8 "
	rows := map[string]string{
		cidr + "--nodeport-addresses=192.0.2.0/24":                        "nodePortAddresses has no IPv6 addresses",
		cidr + "--nodeport-addresses=2001:db8::/32":                       "nodePortAddresses has no IPv4 addresses",
		cidr + "--nodeport-addresses=primary,localhost":                   "nodePortAddresses has loopback addresses",
		cidr + "--nodeport-addresses=127.0.0.0/8,all":                     "nodePortAddresses has loopback addresses",
		"--detect-local-mode=ClusterCIDR":                                 "clusterCIDR is empty",
		cidr + "--feature-gates=KubeProxyNFTablesLocalhostNodePorts=true": "feature gate KubeProxyNFTablesLocalhostNodePorts has no effect",
		cidr + "--feature-gates=NFTablesNetlink=false":                    "feature gate NFTablesNetlink has no effect",
		cidr + "--feature-gates=NFTablesNetLink=true":                     `feature gate NFTablesNetLink is none of the proxy's and is ignored; did you mean "NFTablesNetlink"?`,
		cidr + "--feature-gates=RotateKubeletServerCertificate=true":      "feature gate RotateKubeletServerCertificate is none of the proxy's and is ignored",
		cidr + "--healthz-port=10256":                                     "--healthz-port is deprecated; put the port into --healthz-bind-address",
		cidr + "--metrics-port=10249":                                     "--metrics-port is deprecated; put the port into --metrics-bind-address",
		cidr + "--windows-service":                                        "--windows-service is ignored: it is for Windows only",
		cidr + "--logtostderr":                                            "--logtostderr is ignored",
		cidr + "--ipvs-scheduler=rr":                                      "--ipvs-scheduler has no effect in mode nftables",
		cidr + "--iptables-localhost-nodeports=false":                     "--iptables-localhost-nodeports has no effect in mode nftables",
		cidr: "",
		cidr + "--nodeport-addresses=192.0.2.0/24,primary":                 "",
		"--detect-local-mode=NodeCIDR":                                     "",
		cidr + "--nodeport-addresses=0.0.0.0/0,::/0":                       "",
		cidr + "--feature-gates=KubeProxyNFTablesLocalhostNodePorts=false": "",
	}
	for args, want := range rows {
		c := mustLoad(t, nil, strings.Fields(args)...)
		if want == "" && len(c.Warnings) == 0 || len(c.Warnings) == 1 && want != "" && strings.HasPrefix(c.Warnings[0].Text, want) {
			continue
		}
		t.Errorf("%s: warnings %q, want %q", args, c.Warnings, want)
	}
}

func TestDuplicateKeyIsAWarning(t *testing.T) {
	files := map[string]string{"file": header + "clusterCIDR: 10.0.0.0/8\noomScoreAdj: 1\noomScoreAdj: 2\n"}
	c := mustLoad(t, files, "--config=file")
	want := []string{`the configuration file is not strictly valid: yaml: unmarshal errors: line 5: key "oomScoreAdj" already set in map`}
	if diff := cmp.Diff(strings.Join(want, "\n"), texts(c.Warnings)); diff != "" || c.OOMScoreAdj != 2 {
		t.Errorf("oom score %d, warnings: -want +got\n%s", c.OOMScoreAdj, diff)
	}
}

func TestFeatures(t *testing.T) {
	rows := map[string]Features{
		"AllowServiceExternalIPs=false":               {Flagz: true, Statusz: true},
		"AllBeta=false":                               {ExternalIPs: true},
		"AllBeta=false,ComponentFlagz=true":           {ExternalIPs: true, Flagz: true},
		"AllAlpha=true,ComponentStatusz=false":        {ExternalIPs: true, Flagz: true},
		"NFTablesProxyMode=true,KubeProxyIPVS=true":   {ExternalIPs: true, Flagz: true, Statusz: true},
		"MultiCIDRServiceAllocator=true":              {ExternalIPs: true, Flagz: true, Statusz: true},
		"PreferSameTrafficDistribution=true,AllBeta=": {},
	}
	for gates, want := range rows {
		c, err := load(nil, "--feature-gates="+gates)
		if strings.HasSuffix(gates, "=") {
			if err == nil {
				t.Errorf("%s is accepted", gates)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", gates, err)
		} else if c.Features != want {
			t.Errorf("%s: %+v, want %+v", gates, c.Features, want)
		}
	}
}

func TestWrittenFileReadsBackTheSame(t *testing.T) {
	rows := []string{
		"",
		"--bind-address=:: --hostname-override=N1 --proxy-mode=nftables --feature-gates=AllBeta=false --kube-api-qps=7.5 --kubeconfig=/k",
		"--iptables-sync-period=9s --iptables-min-sync-period=2s --masquerade-all --cluster-cidr=10.0.0.0/8,fd00::/8 --oom-score-adj=0",
		"--nodeport-addresses=primary,10.1.2.3/8 --detect-local-mode=BridgeInterface --pod-bridge-interface=cni0 --profiling",
		"--conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-be-liberal --conntrack-udp-timeout=1m -v=3 --vmodule=a=4,b=5",
		"--ipvs-min-sync-period=4s --ipvs-exclude-cidrs=10.0.0.0/8 --iptables-masquerade-bit=7 --logging-format=json --bind-address-hard-fail",
	}
	ignore := cmp.Options{cmpopts.IgnoreUnexported(Config{}), cmpopts.IgnoreFields(Config{}, "Flags", "Gates", "Warnings", "ConfigFile", "ModeSet"),
		cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})}
	for _, args := range rows {
		first := mustLoad(t, nil, strings.Fields(args)...)
		raw, err := first.YAML()
		if err != nil {
			t.Fatal(err)
		}
		second := mustLoad(t, map[string]string{"file": string(raw)}, "--config=file")
		if diff := cmp.Diff(first, second, ignore); diff != "" {
			t.Errorf("%s: -written +read\n%s", args, diff)
		}
		for _, w := range second.Warnings {
			if strings.Contains(w.Text, "configuration file") {
				t.Errorf("%s: reading it back warns: %s", args, w)
			}
		}
	}
}
