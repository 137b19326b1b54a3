package compare

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	proxyconfig "k8s.io/kube-proxy/config/v1alpha1"
	"sigs.k8s.io/yaml"
)

// flat is a configuration as a list of its fields, by their paths, such as "nftables.syncPeriod".
type flat map[string]string

func flatten(value any, path string, into flat) {
	switch v := value.(type) {
	case map[string]any:
		for key, inner := range v {
			flatten(inner, strings.TrimPrefix(path+"."+key, "."), into)
		}
	case nil:
	default:
		into[path] = fmt.Sprint(v)
	}
}

// sameConfigs reports fields of two configurations that differ.
func sameConfigs(t *testing.T, upstream, turnout map[string]any) {
	t.Helper()
	a, b := flat{}, flat{}
	flatten(upstream, "", a)
	flatten(turnout, "", b)
	paths := map[string]bool{}
	for _, side := range []flat{a, b} {
		for path := range side {
			paths[path] = true
		}
	}
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		meant := func(f fieldAllowance) bool { return f.covers(path, a[path], b[path], a["mode"]) }
		if a[path] != b[path] && !slices.ContainsFunc(fieldAllowances, meant) {
			t.Errorf("%s: kube-proxy %q, turnout %q", path, a[path], b[path])
		}
	}
	if len(a) < 30 {
		t.Errorf("kube-proxy shows %d fields only", len(a))
	}
}

// golden are the configuration files that installers write, and some that are harder to read.
const golden = "../../../proxy/config/testdata"

// goldenFiles returns the configuration files, by name.
func goldenFiles(t *testing.T) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	files, err := filepath.Glob(golden + "/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d files in %s, %v", len(files), golden, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimSuffix(filepath.Base(file), ".yaml")] = text
	}
	return out
}

// TestWriteConfig has both write what they make of configuration files that installers write, and of none.
func TestWriteConfig(t *testing.T) {
	program := binaries(t)
	files := goldenFiles(t)
	files["defaults"] = nil
	for _, name := range slices.Sorted(maps.Keys(files)) {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			from, to := filepath.Join(dir, "config.conf"), filepath.Join(dir, "written.conf")
			args := []string{"--write-config-to=" + to}
			if files[name] != nil {
				args = append(args, "--config="+from)
				if err := os.WriteFile(from, files[name], 0o644); err != nil {
					t.Fatal(err)
				}
			}
			var got [2]map[string]any
			for i, binary := range []string{program.KubeProxy, program.Turnout} {
				if out, err := exec.Command(binary, args...).CombinedOutput(); err != nil {
					t.Fatalf("%s: %v\n%s", binary, err, out)
				}
				text, err := os.ReadFile(to)
				if err == nil {
					err = errors.Join(yaml.Unmarshal(text, &got[i]), os.Remove(to))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			sameConfigs(t, got[0], got[1])
		})
	}
}

// TestRunningConfig starts both with configuration files that installers write, but for what is of this machine, and compares what they
// say then that their configuration is.
func TestRunningConfig(t *testing.T) {
	files := goldenFiles(t)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		t.Run(name, func(t *testing.T) {
			needMode(t, files[name])
			p := newPair(t, settings{name: name, edit: func(c *proxyconfig.KubeProxyConfiguration) {
				kubeconfig := c.ClientConnection.Kubeconfig
				*c = proxyconfig.KubeProxyConfiguration{}
				if err := yaml.Unmarshal(files[name], c); err != nil {
					t.Fatal(err)
				}
				c.ClientConnection.Kubeconfig, c.Conntrack.MaxPerCore = kubeconfig, new(int32(0))
				c.MetricsBindAddress = strings.TrimPrefix(metricsServer, "http://")
				if c.Mode == "" {
					c.Mode = "nftables" // where it is not set, each of the two uses another one
				}
			}})
			p.sameConfigz(t)
		})
	}
}

// needMode skips a test with a file of a mode that the machine cannot have.
func needMode(t *testing.T, file []byte) {
	t.Helper()
	var c proxyconfig.KubeProxyConfiguration
	if err := yaml.Unmarshal(file, &c); err != nil {
		t.Fatal(err)
	}
	for _, m := range modes {
		if why := m.unusable(); m.mode() == c.Mode && why != "" {
			t.Skip(why)
		}
	}
}
