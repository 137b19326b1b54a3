package manifests

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"turnout/e2e/cluster/plane"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/lab"
)

var (
	binaryFlag   = flag.String("binary", "", "the turnout binary to test; tests that need it are skipped if empty")
	binariesFlag = flag.String("binaries", "", "the folder with the control plane's programs; where hack/e2e.sh builds them if empty")
)

// folder is that of the manifests.
const folder = "../../../manifests"

// patience bounds every wait for a controller.
const patience = 60 * time.Second

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "kubectl" {
		kubectl()
		return
	}
	flag.Parse()
	os.Exit(proxytest.Main(m))
}

// newPlane runs a control plane with the Nodes n1 and n2.
func newPlane(t *testing.T) (*plane.Plane, *lab.Lab) {
	t.Helper()
	l := lab.ForTest(t)
	p := plane.Start(t, l, plane.Options{Binaries: *binariesFlag, APIServerArgs: []string{"--allow-privileged=true", "--kubelet-preferred-address-types=InternalIP"}})
	if err := p.RegisterNodes(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p, l
}

// build is kustomize build of a folder.
func build(t *testing.T, dir string) []*unstructured.Unstructured {
	t.Helper()
	result, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatalf("kustomize build %s: %v", dir, err)
	}
	var objects []*unstructured.Unstructured
	for _, r := range result.Resources() {
		content, err := r.Map()
		if err != nil {
			t.Fatalf("%s of %s: %v", r.CurId(), dir, err)
		}
		objects = append(objects, &unstructured.Unstructured{Object: content})
	}
	return objects
}

// overlay writes a kustomization into a folder of its own below the one of the manifests' copy, and returns its path. Paths in it may
// begin with MANIFESTS.
func overlay(t *testing.T, kustomization string, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	if err := os.CopyFS(filepath.Join(root, "manifests"), os.DirFS(folder)); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "mine")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("kustomization.yaml", strings.ReplaceAll(kustomization, "MANIFESTS", "../manifests"))
	for name, content := range files {
		write(name, content)
	}
	return dir
}

// client makes objects of any kind.
type client struct {
	t      *testing.T
	any    dynamic.Interface
	mapper meta.RESTMapper
}

func newClient(t *testing.T, p *plane.Plane) *client {
	t.Helper()
	c, err := dynamic.NewForConfig(p.Config)
	if err != nil {
		t.Fatal(err)
	}
	return &client{t, c, restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(p.Admin.Discovery()))}
}

// of returns the client for objects like one.
func (c *client) of(o *unstructured.Unstructured) dynamic.ResourceInterface {
	c.t.Helper()
	kind := o.GroupVersionKind()
	m, err := c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		c.t.Fatalf("%s %s: %v", kind, o.GetName(), err)
	}
	if m.Scope.Name() == meta.RESTScopeNameNamespace {
		return c.any.Resource(m.Resource).Namespace(o.GetNamespace())
	}
	return c.any.Resource(m.Resource)
}

// dryRun has the API server look at an object as strictly as it can, without keeping it.
func (c *client) dryRun(o *unstructured.Unstructured) error {
	c.t.Helper()
	_, err := c.of(o).Create(c.t.Context(), o, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict})
	return err
}

// apply is kubectl apply --server-side.
func (c *client) apply(objects ...*unstructured.Unstructured) {
	c.t.Helper()
	for _, o := range objects {
		if _, err := c.of(o).Apply(c.t.Context(), o.GetName(), o, metav1.ApplyOptions{FieldManager: "test", Force: true}); err != nil {
			c.t.Fatalf("apply %s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
}

// eventually waits until check returns no error.
func eventually(t *testing.T, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var err error
	for ctx.Err() == nil {
		attempt := check(ctx)
		if attempt == nil {
			return
		}
		if !errors.Is(attempt, context.DeadlineExceeded) {
			err = attempt
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatalf("after %v: %v", patience, err)
}
