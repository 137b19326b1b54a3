package config

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"
)

// leafValues returns the leaves of a value's JSON by their paths.
func leafValues(t *testing.T, value any) map[string]any {
	t.Helper()
	raw, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	var tree map[string]any
	if err := json.Unmarshal(raw, &tree); err != nil {
		t.Fatal(err)
	}
	out := map[string]any{}
	var walk func(prefix string, m map[string]any)
	walk = func(prefix string, m map[string]any) {
		for k, v := range m {
			if sub, ok := v.(map[string]any); ok {
				walk(prefix+k+".", sub)
			} else {
				out[prefix+k] = v
			}
		}
	}
	walk("", tree)
	return out
}

// wantDefaults is kube-proxy 1.37's table of defaults; the rows marked so differ on purpose.
var wantDefaults = map[string]any{
	"apiVersion":                          "kubeproxy.config.k8s.io/v1alpha1",
	"kind":                                "KubeProxyConfiguration",
	"clientConnection.kubeconfig":         "",
	"clientConnection.acceptContentTypes": "",
	"clientConnection.contentType":        "application/vnd.kubernetes.protobuf",
	"clientConnection.qps":                5.0,
	"clientConnection.burst":              10.0,
	"logging.format":                      "text",
	"logging.flushFrequency":              "5s",
	"logging.verbosity":                   0.0,
	"logging.options.text.infoBufferSize": "0",
	"logging.options.json.infoBufferSize": "0",
	"hostnameOverride":                    "",
	"bindAddress":                         "0.0.0.0",
	"healthzBindAddress":                  "0.0.0.0:10256",
	"metricsBindAddress":                  "127.0.0.1:10249",
	"bindAddressHardFail":                 false,
	"enableProfiling":                     false,
	"showHiddenMetricsForVersion":         "",
	"mode":                                "nftables", // kube-proxy: iptables
	"iptables.masqueradeBit":              14.0,
	"iptables.masqueradeAll":              false,
	"iptables.localhostNodePorts":         true,
	"iptables.syncPeriod":                 "30s",
	"iptables.minSyncPeriod":              "1s",
	"ipvs.syncPeriod":                     "30s",
	"ipvs.minSyncPeriod":                  "0s",
	"ipvs.scheduler":                      "",
	"ipvs.excludeCIDRs":                   nil,
	"ipvs.strictARP":                      false,
	"ipvs.tcpTimeout":                     "0s",
	"ipvs.tcpFinTimeout":                  "0s",
	"ipvs.udpTimeout":                     "0s",
	"nftables.masqueradeBit":              14.0,
	"nftables.masqueradeAll":              false,
	"nftables.syncPeriod":                 "30s",
	"nftables.minSyncPeriod":              "0s", // kube-proxy: 1s
	"winkernel.networkName":               "",
	"winkernel.sourceVip":                 "",
	"winkernel.enableDSR":                 false,
	"winkernel.rootHnsEndpointName":       "",
	"winkernel.forwardHealthCheckVip":     false,
	"detectLocalMode":                     "ClusterCIDR",
	"detectLocal.bridgeInterface":         "",
	"detectLocal.interfaceNamePrefix":     "",
	"clusterCIDR":                         "",
	"nodePortAddresses":                   nil,
	"oomScoreAdj":                         -999.0,
	"conntrack.maxPerCore":                32768.0,
	"conntrack.min":                       131072.0,
	"conntrack.tcpEstablishedTimeout":     "24h0m0s",
	"conntrack.tcpCloseWaitTimeout":       "1h0m0s",
	"conntrack.tcpBeLiberal":              false,
	"conntrack.udpTimeout":                "0s",
	"conntrack.udpStreamTimeout":          "0s",
	"configSyncPeriod":                    "15m0s",
	"portRange":                           "",
}

func TestDefaults(t *testing.T) {
	files := map[string]string{
		"minimal": header,
		"nulls":   header + "conntrack: null\nbindAddress: null\nsyncPeriod: null\nnftables: {syncPeriod: null, minSyncPeriod: , masqueradeBit: null}\n",
		"empty":   header + "bindAddress: ''\nmode: ''\nhealthzBindAddress: ''\nnftables: {syncPeriod: ''}\n",
		"zeros":   header + "configSyncPeriod: 0\nclientConnection: {qps: 0, burst: 0}\nnftables: {syncPeriod: 0, minSyncPeriod: 0s}\nipvs: {syncPeriod: 0s}\n",
	}
	rows := map[string][]string{"no arguments": nil}
	for name := range files {
		rows["file "+name] = []string{"--config", name}
	}
	for name, args := range rows {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(wantDefaults, leafValues(t, mustLoad(t, files, args...).External)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestTypedDefaults(t *testing.T) {
	want := &Config{
		Mode:               NFTables,
		Asked:              NFTables,
		Client:             Client{ContentType: "application/vnd.kubernetes.protobuf", QPS: 5, Burst: 10},
		BindAddress:        netip.MustParseAddr("0.0.0.0"),
		HealthzBindAddress: netip.MustParseAddrPort("0.0.0.0:10256"),
		MetricsBindAddress: netip.MustParseAddrPort("127.0.0.1:10249"),
		Sync: Sync{Period: 30 * time.Second, QuietPeriod: 10 * time.Millisecond, MaxDelay: 100 * time.Millisecond,
			Resync: 15 * time.Minute},
		MasqueradeBit:     14,
		DetectLocal:       DetectLocal{Mode: DetectClusterCIDR},
		NodePortAddresses: NodePortAddresses{Primary: true},
		OOMScoreAdj:       -999,
		Conntrack: Conntrack{MaxPerCore: 32768, Min: 131072, TCPEstablishedTimeout: 24 * time.Hour,
			TCPCloseWaitTimeout: time.Hour},
		Features: Features{ExternalIPs: true, Flagz: true, Statusz: true},
	}
	ignore := cmp.Options{cmpopts.IgnoreUnexported(Config{}), cmpopts.IgnoreFields(Config{}, "Flags", "Gates", "Logging", "External", "Warnings"),
		cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})}
	if diff := cmp.Diff(want, mustLoad(t, nil), ignore); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// wantFlags is kube-proxy 1.37's table of flags with their defaults.
var wantFlags = map[string]string{
	"config": "", "write-config-to": "", "cleanup": "false", "init-only": "false", "feature-gates": "", "kubeconfig": "",
	"master": "", "kube-api-content-type": "application/vnd.kubernetes.protobuf", "kube-api-qps": "5", "kube-api-burst": "10",
	"hostname-override": "", "bind-address": "0.0.0.0", "healthz-bind-address": "0.0.0.0:10256",
	"metrics-bind-address": "127.0.0.1:10249", "healthz-port": "10256", "metrics-port": "10249", "bind-address-hard-fail": "false",
	"profiling": "false", "show-hidden-metrics-for-version": "", "proxy-mode": "", "iptables-masquerade-bit": "14",
	"masquerade-all": "false", "iptables-localhost-nodeports": "true", "iptables-sync-period": "30s",
	"iptables-min-sync-period": "1s", "ipvs-sync-period": "30s", "ipvs-min-sync-period": "1s", "ipvs-scheduler": "",
	"ipvs-exclude-cidrs": "[]", "ipvs-strict-arp": "false", "ipvs-tcp-timeout": "0s", "ipvs-tcpfin-timeout": "0s",
	"ipvs-udp-timeout": "0s", "detect-local-mode": "", "pod-bridge-interface": "", "pod-interface-name-prefix": "",
	"cluster-cidr": "", "nodeport-addresses": "[]", "oom-score-adj": "-999", "conntrack-max-per-core": "32768",
	"conntrack-min": "131072", "conntrack-tcp-timeout-established": "24h0m0s", "conntrack-tcp-timeout-close-wait": "1h0m0s",
	"conntrack-tcp-be-liberal": "false", "conntrack-udp-timeout": "0s", "conntrack-udp-timeout-stream": "0s",
	"config-sync-period": "15m0s", "windows-service": "false", "source-vip": "", "network-name": "", "enable-dsr": "false",
	"root-hnsendpoint-name": "cbr0", "forward-healthcheck-vip": "false", "logging-format": "text", "log-flush-frequency": "5s",
	"v": "0", "vmodule": "", "log-text-split-stream": "false", "log-text-info-buffer-size": "0", "log-json-split-stream": "false",
	"log-json-info-buffer-size": "0", "version": "false", "help": "false",
}

// wantOwnFlags are the flags that kube-proxy does not have.
var wantOwnFlags = map[string]string{
	"manifests": "", "sync-quiet-period": "10ms", "sync-max-delay": "100ms", "protect-table": "false",
}

func TestEveryFlagExists(t *testing.T) {
	want := maps.Clone(wantFlags)
	maps.Copy(want, wantOwnFlags)
	got := map[string]string{}
	NewFlags().FlagSet().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			got[f.Name] = f.DefValue
		}
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestTablesNameRealFieldsAndFlags(t *testing.T) {
	known := fieldPaths()
	var fields []string
	for _, n := range numbers {
		fields = append(fields, n.field)
	}
	for _, i := range intervals {
		fields = append(fields, i.field)
	}
	for _, d := range timeouts {
		fields = append(fields, d.field)
	}
	for field, flag := range flagOf {
		fields = append(fields, field)
		if _, ok := wantFlags[flag]; !ok {
			t.Errorf("%s belongs to flag %s, which does not exist", field, flag)
		}
	}
	for _, field := range fields {
		if !slices.Contains(known, field) {
			t.Errorf("%s is not a field", field)
		}
	}
}
