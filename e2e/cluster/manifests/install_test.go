package manifests

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	apps "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"turnout/proxy/config"
)

// TestDryRun has the real API server look at every object of every overlay: no field that it does not know, none that is not valid.
func TestDryRun(t *testing.T) {
	p, _ := newPlane(t)
	c := newClient(t, p)
	// Where clusterCIDR is for the user to fill in, the proxy warns of it.
	for dir, warnings := range map[string]int{"base": 1, "overlays/kind": 0, "overlays/staged": 1} {
		objects := build(t, filepath.Join(folder, dir))
		for _, o := range objects {
			if err := c.dryRun(o); err != nil {
				t.Errorf("%s: %s %s: %v", dir, o.GetKind(), o.GetName(), err)
			}
		}
		if len(objects) < 4 {
			t.Errorf("%s has only %d objects", dir, len(objects))
		}
		checkConfig(t, dir, objects, warnings)
		checkPrivileges(t, dir, daemonSet(t, objects))
	}
}

// checkConfig has the proxy read the configuration, which must give it so many things to warn of.
func checkConfig(t *testing.T, dir string, objects []*unstructured.Unstructured, warnings int) {
	t.Helper()
	found := false
	for _, o := range objects {
		text, ok, _ := unstructured.NestedString(o.Object, "data", "config.conf")
		if !ok {
			continue
		}
		found = true
		flags := config.NewFlags()
		flags.Parse([]string{"--config=config.conf", "--hostname-override=n1"})
		cfg, err := flags.Config(func(string) ([]byte, error) { return []byte(text), nil })
		if err != nil || len(cfg.Warnings) != warnings {
			t.Errorf("%s: config.conf: %v, warnings %q, want %d", dir, err, cfg.Warnings, warnings)
		}
	}
	if !found {
		t.Errorf("%s has no config.conf", dir)
	}
}

// checkPrivileges checks that nothing but what ends after the start has more than CAP_NET_ADMIN.
func checkPrivileges(t *testing.T, dir string, ds *apps.DaemonSet) {
	t.Helper()
	for _, c := range ds.Spec.Template.Spec.Containers {
		got := c.SecurityContext
		want := &v1.SecurityContext{
			Capabilities:             &v1.Capabilities{Drop: []v1.Capability{"ALL"}, Add: []v1.Capability{"NET_ADMIN"}},
			AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: container %s (-want +got)\n%s", dir, c.Name, diff)
		}
	}
	for _, c := range ds.Spec.Template.Spec.InitContainers {
		if c.Command[len(c.Command)-1] != "--init-only" {
			t.Errorf("%s: init container %s runs %v", dir, c.Name, c.Command)
		}
	}
}

func daemonSet(t *testing.T, objects []*unstructured.Unstructured) *apps.DaemonSet {
	t.Helper()
	for _, o := range objects {
		if o.GetKind() == "DaemonSet" {
			ds := &apps.DaemonSet{}
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, ds); err != nil {
				t.Fatal(err)
			}
			return ds
		}
	}
	t.Fatal("no DaemonSet")
	return nil
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
