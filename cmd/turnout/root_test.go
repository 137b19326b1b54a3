package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/klog/v2"

	"turnout/proxy/config"
)

// result is what a command line left behind.
type result struct {
	code           int
	stdout, stderr string
	cfg            *config.Config // what the proxy got, nil if it was not called
}

// execute runs a command line with a proxy that returns proxyErr.
func execute(ctx context.Context, t *testing.T, proxyErr error, args ...string) result {
	t.Helper()
	reset := func() {
		if err := logsapi.ResetForTest(nil); err != nil {
			t.Error(err)
		}
	}
	reset() // logging can be set up only once in a process
	t.Cleanup(reset)
	var r result
	var stdout, stderr bytes.Buffer
	r.code = run(ctx, func(_ context.Context, cfg *config.Config) error {
		r.cfg = cfg
		return proxyErr
	}, args, &stdout, &stderr)
	r.stdout, r.stderr = stdout.String(), stderr.String()
	return r
}

func TestProxyGetsConfig(t *testing.T) {
	r := execute(t.Context(), t, nil, "--cluster-cidr=10.0.0.0/8", "--hostname_override", "N1", "-v", "0")
	if r.code != 0 || r.stderr != "" || r.cfg == nil || r.cfg.HostnameOverride != "n1" || len(r.cfg.ClusterCIDRs) != 1 {
		t.Errorf("%+v", r)
	}
}

func TestProxyErrorIsExitCode1(t *testing.T) {
	r := execute(t.Context(), t, errors.New("no kernel"), "--cluster-cidr=10.0.0.0/8")
	if r.code != 1 || r.stderr != "turnout: no kernel\n" {
		t.Errorf("%+v", r)
	}
}

func TestAllProblemsOnStderr(t *testing.T) {
	r := execute(t.Context(), t, nil, "--wrong", "--conntrack-min=x", "--cluster-cidr=y", "stray")
	want := `turnout: 4 problems:
  --wrong: is not a flag; see --help
  --conntrack-min: "x" does not fit; give a whole number
  "stray": is neither a command nor a flag; remove it, or put a value behind its flag with "="
  --cluster-cidr: "y" is not a CIDR; give one such as 10.244.0.0/16
`
	if r.code != 1 || r.cfg != nil || r.stdout != "" || r.stderr != want {
		t.Errorf("code %d, proxy called %t, stdout %q, stderr:\n%s", r.code, r.cfg != nil, r.stdout, r.stderr)
	}
}

// A context that ends is how signals arrive.
func TestStopIsExitCode0(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := execute(ctx, t, context.Canceled, "--cluster-cidr=10.0.0.0/8"); r.code != 0 || r.stderr != "" || r.cfg == nil {
		t.Errorf("stopped: %+v", r)
	}
	if r := execute(ctx, t, errors.New("real"), "--cluster-cidr=10.0.0.0/8"); r.code != 1 {
		t.Errorf("another error while stopping: %+v", r)
	}
	if r := execute(t.Context(), t, context.Canceled, "--cluster-cidr=10.0.0.0/8"); r.code != 1 {
		t.Errorf("canceled without being told to stop: %+v", r)
	}
}

func TestHelp(t *testing.T) {
	for _, args := range []string{"--help", "-h", "help", "--wrong -h"} {
		r := execute(t.Context(), t, nil, strings.Fields(args)...)
		if r.code != 0 || r.cfg != nil || !strings.Contains(r.stdout, "--conntrack-max-per-core") || !strings.Contains(r.stdout, "version ") {
			t.Errorf("%s: code %d, stderr %q, stdout:\n%s", args, r.code, r.stderr, r.stdout)
		}
	}
}

func TestVersion(t *testing.T) {
	for _, args := range []string{"--version", "version", "version -o text"} {
		r := execute(t.Context(), t, nil, strings.Fields(args)...)
		if r.code != 0 || r.cfg != nil || !strings.HasPrefix(r.stdout, "Turnout ") || !strings.HasSuffix(r.stdout, "(for Kubernetes v1.37)\n") {
			t.Errorf("%s: %+v", args, r)
		}
	}
	for _, args := range []string{"--version=raw", "version -o json", "version --output=json"} {
		r := execute(t.Context(), t, nil, strings.Fields(args)...)
		var info buildInfo
		if err := json.Unmarshal([]byte(r.stdout), &info); err != nil || r.code != 0 {
			t.Fatalf("%s: %v, %+v", args, err, r)
		}
		if info.Kubernetes != "1.37" || info.Version == "" || !strings.HasPrefix(info.GoVersion, "go") {
			t.Errorf("%s: %+v", args, info)
		}
	}
	if r := execute(t.Context(), t, nil, "version", "-o", "xml"); r.code != 1 || !strings.Contains(r.stderr, `"xml" is not a format; give text or json`) {
		t.Errorf("another format: %+v", r)
	}
}

func TestWriteConfigTo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	r := execute(t.Context(), t, nil, "--write-config-to="+path, "--cluster-cidr=10.0.0.0/8", "--oom-score-adj=-5")
	raw, err := os.ReadFile(path)
	if err != nil || r.code != 0 || r.cfg != nil {
		t.Fatalf("%v, %+v", err, r)
	}
	for _, line := range []string{"apiVersion: kubeproxy.config.k8s.io/v1alpha1", "kind: KubeProxyConfiguration", "oomScoreAdj: -5", "mode: nftables"} {
		if !strings.Contains(string(raw), line+"\n") {
			t.Errorf("%s is missing in\n%s", line, raw)
		}
	}
	r = execute(t.Context(), t, nil, "--config="+path)
	if r.code != 0 || r.cfg == nil || r.cfg.OOMScoreAdj != -5 || r.cfg.ConfigFile != path {
		t.Errorf("read back: %+v", r)
	}
	r = execute(t.Context(), t, nil, "--write-config-to=/nowhere/at/all", "--cluster-cidr=10.0.0.0/8")
	if r.code != 1 || !strings.Contains(r.stderr, "write configuration: ") {
		t.Errorf("to a folder that does not exist: %+v", r)
	}
}

func TestLoggingIsApplied(t *testing.T) {
	r := execute(t.Context(), t, nil, "--cluster-cidr=10.0.0.0/8", "-v=3", "--vmodule=root_test=7")
	if r.code != 0 || !klog.V(7).Enabled() || klog.V(8).Enabled() {
		t.Errorf("code %d, -v and --vmodule are not applied", r.code)
	}
}

func TestJSONLogging(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	stderr := os.Stderr
	os.Stderr = write
	r := execute(t.Context(), t, nil, "--logging-format=json") // warns about the missing cluster CIDR
	klog.Flush()
	os.Stderr = stderr
	write.Close()
	if err := read.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var line map[string]any
	if err := json.NewDecoder(read).Decode(&line); err != nil {
		t.Fatalf("code %d, first log line: %v", r.code, err)
	}
	if line["msg"] != "Configuration warning" {
		t.Errorf("first log line %v", line)
	}
}
