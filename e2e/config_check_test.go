package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"turnout/proxy"
)

// ran is what a command left behind.
type ran struct {
	code           int
	stdout, stderr string
}

// execute runs the binary to its end.
func execute(t *testing.T, args ...string) ran {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return ran{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// kubespray is what Kubespray writes for mode nftables with kube_proxy_masquerade_all, as far as it matters here: the switch stands
// where only the other modes look for it.
const kubespray = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
bindAddress: 0.0.0.0
clientConnection:
  acceptContentTypes: ''
  burst: 10
  contentType: application/vnd.kubernetes.protobuf
  kubeconfig: ''
  qps: 5
clusterCIDR: "10.244.0.0/16,fd00:10:244::/48"
configSyncPeriod: 15m0s
conntrack:
  maxPerCore: 0
  min: 0
iptables:
  masqueradeAll: True
  masqueradeBit: 14
  minSyncPeriod: 0s
  syncPeriod: 30s
ipvs:
  excludeCIDRs: []
  minSyncPeriod: 0s
  scheduler: rr
  syncPeriod: 30s
  strictARP: False
  tcpTimeout: 0s
  tcpFinTimeout: 0s
  udpTimeout: 0s
mode: nftables
nodePortAddresses: []
oomScoreAdj: -999
portRange: null
`

const kubesprayWarning = "iptables.masqueradeAll: true has no effect in mode nftables; set nftables.masqueradeAll: true"

// TestConfigCheck checks files of one mode for all of them, by exit status and output.
func TestConfigCheck(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.conf")
	writeFile(t, file, kubespray)
	for _, r := range []struct {
		args     []string
		code     int
		contains []string
	}{
		{nil, 0, []string{"warning: " + kubesprayWarning, "mode nftables: 0 errors, 1 warning"}},
		{[]string{"--strict"}, 1, []string{"warning: " + kubesprayWarning}},
		{[]string{"--mode", "iptables"}, 0, []string{"mode iptables: 0 errors", "note: nodePortAddresses is not set"}},
		{[]string{"--mode", "ipvs"}, 0, []string{"mode ipvs: 0 errors"}},
		{[]string{"-o", "json"}, 0, []string{`"field": "iptables.masqueradeAll"`, `"instead": "nftables.masqueradeAll"`, `"ok": true`}},
	} {
		got := execute(t, append([]string{"config", "check", "-f", file}, r.args...)...)
		for _, text := range r.contains {
			if !strings.Contains(got.stdout, text) {
				t.Errorf("%q: no %q in\n%s", r.args, text, got.stdout)
			}
		}
		if got.code != r.code {
			t.Errorf("%q: exit status %d, want %d: %s", r.args, got.code, r.code, got.stderr)
		}
	}
	writeFile(t, file, strings.NewReplacer("mode: nftables", "mode: nft", "15m0s", "soon", "-999", "-9999", "min: 0", "min: -1").Replace(kubespray)+"nftables: {masqueradeBit: 40}\n")
	got := execute(t, "config", "check", "-f", file)
	for _, field := range []string{"mode", "configSyncPeriod", "oomScoreAdj", "conntrack.min"} {
		if got.code != 1 || !strings.Contains(got.stdout, "error: "+field+": ") {
			t.Errorf("exit status %d, no error of %s in\n%s", got.code, field, got.stdout)
		}
	}
}

// TestConfigConvertedFileIsUsed starts the proxy with Kubespray's file, and with what convert makes of it as a file of mode iptables.
func TestConfigConvertedFileIsUsed(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.symmetric()
	c.serve("pod-2", "pod-5")
	s := newService(1, "web")
	c.set(c.with(s, on("pod-2"), on("pod-5"))...)
	dir := t.TempDir()
	before, after := filepath.Join(dir, "before.yaml"), filepath.Join(dir, "after.yaml")
	writeFile(t, before, kubespray)

	p := c.start("--config=" + before)
	p.warned(kubesprayWarning)
	c.probe(t, c.bothFamilies("before", c.from(localPod), c.of(s, proxy.ClusterIP), kept("pod-2", "pod-5"))...)
	p.stop()

	got := execute(t, "config", "convert", "-f", before, "--from", "iptables", "--to", "nftables", "-o", after)
	if got.code != 0 || got.stdout != "" || !slices.Contains(strings.Split(got.stderr, "\n"), "changed: iptables.masqueradeAll: true is now nftables.masqueradeAll") {
		t.Fatalf("%+v", got)
	}
	p = c.start("--config=" + after)
	c.probe(t, c.bothFamilies("after", c.from(localPod), c.of(s, proxy.ClusterIP), masqueraded("pod-2", "pod-5"))...)
	if strings.Contains(p.log.String(), "has no effect") {
		t.Error("the converted file has fields without effect")
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
