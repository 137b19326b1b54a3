package config

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// load parses a command line; files are looked up in a map and then on disk.
func load(files map[string]string, args ...string) (*Config, error) {
	f := NewFlags()
	f.Parse(args)
	return f.Config(func(path string) ([]byte, error) {
		if text, ok := files[path]; ok {
			return []byte(text), nil
		}
		return os.ReadFile(path)
	})
}

// mustLoad is load for what has no problems.
func mustLoad(t *testing.T, files map[string]string, args ...string) *Config {
	t.Helper()
	c, err := load(files, args...)
	if err != nil {
		t.Fatalf("load %q: %v", args, err)
	}
	return c
}

// problemLines returns each problem as a line.
func problemLines(err error) []string {
	var ps Problems
	if !errors.As(err, &ps) {
		return nil
	}
	var lines []string
	for _, p := range ps {
		lines = append(lines, p.Error())
	}
	return lines
}

// texts returns warnings, one to a line.
func texts(ws Warnings) string {
	var lines []string
	for _, w := range ws {
		lines = append(lines, w.Text)
	}
	return strings.Join(lines, "\n")
}

const header = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

func TestFilesOfInstallers(t *testing.T) {
	for _, path := range testFiles(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			c, err := load(nil, "--config="+path, "--hostname-override=Worker-1 ")
			compareGolden(t, strings.TrimSuffix(path, ".yaml")+".golden", describe(t, c, err))
		})
	}
}

// testFiles lists configuration files as installers write them.
func testFiles(t testing.TB) []string {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(paths) < 10 {
		t.Fatalf("testdata has %d YAML files: %v", len(paths), err)
	}
	return paths
}

// compareGolden compares with a file, or writes it if -update is given.
func compareGolden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// describe prints all of a Config.
func describe(t *testing.T, c *Config, err error) string {
	if err != nil {
		return err.Error() + "\n"
	}
	var b strings.Builder
	p := func(name string, value any) { fmt.Fprintf(&b, "%-20s %+v\n", name, value) }
	p("mode", fmt.Sprint(c.Mode, " set=", c.ModeSet))
	p("hostname", c.HostnameOverride)
	p("client", c.Client)
	p("bindAddress", c.BindAddress)
	p("healthz", c.HealthzBindAddress)
	p("metrics", c.MetricsBindAddress)
	p("sync", c.Sync)
	p("masqueradeAll", c.MasqueradeAll)
	p("masqueradeBit", c.MasqueradeBit)
	p("detectLocal", c.DetectLocal)
	p("clusterCIDRs", c.ClusterCIDRs)
	p("nodePortAddresses", c.NodePortAddresses)
	p("oomScoreAdj", c.OOMScoreAdj)
	p("conntrack", c.Conntrack)
	p("features", c.Features)
	for _, w := range c.Warnings {
		p("warning", w)
	}
	raw, err := c.YAML()
	if err != nil {
		t.Fatal(err)
	}
	b.WriteString("--- effective\n")
	b.Write(raw)
	return b.String()
}
