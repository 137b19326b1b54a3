package manifests

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	apps "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"
	"k8s.io/kubernetes/cmd/kubeadm/app/componentconfigs"
	addon "k8s.io/kubernetes/cmd/kubeadm/app/phases/addons/proxy"
	kubeadm "k8s.io/kubernetes/cmd/kubeadm/app/util/config"
	"sigs.k8s.io/yaml"

	"turnout/e2e/cluster/plane"
)

// kubeadmAddon has kubeadm's own code install kube-proxy, as kubeadm init --patches does, and returns the DaemonSet.
func kubeadmAddon(t *testing.T, p *plane.Plane, patches string) *apps.DaemonSet {
	t.Helper()
	cfg, err := kubeadm.DefaultedStaticInitConfiguration()
	if err != nil {
		t.Fatal(err)
	}
	settings := cfg.ComponentConfigs[componentconfigs.KubeProxyGroup].Get().(*kubeproxy.KubeProxyConfiguration)
	settings.Mode, settings.ClusterCIDR = "nftables", "10.244.0.0/16,fd00:10:244::/56"
	settings.Conntrack = kubeproxy.KubeProxyConntrackConfiguration{MaxPerCore: new(int32), Min: new(int32)} // which a network namespace cannot have for itself
	address := front(t, p)
	cfg.ControlPlaneEndpoint = net.JoinHostPort(address["host"], address["port"])
	var out bytes.Buffer
	if err := addon.EnsureProxyAddon(&cfg.ClusterConfiguration, &cfg.LocalAPIEndpoint, p.Admin, patches, &out, false); err != nil {
		t.Fatalf("kubeadm: %v\n%s", err, out.String())
	}
	return kubeProxy(t.Context(), t, p)
}

func kubeProxy(ctx context.Context, t *testing.T, p *plane.Plane) *apps.DaemonSet {
	t.Helper()
	ds, err := p.Admin.AppsV1().DaemonSets("kube-system").Get(ctx, "kube-proxy", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return ds
}

// TestKubeadmPatches installs by kubeadm with the patches, and checks what must not change: tools append to the command of container 0.
func TestKubeadmPatches(t *testing.T) {
	p, _ := newPlane(t)
	plain := kubeadmAddon(t, p, "")
	patched := kubeadmAddon(t, p, filepath.Join(folder, "overlays/kubeadm"))
	got, was := patched.Spec.Template.Spec.Containers, plain.Spec.Template.Spec.Containers
	if len(got) != 1 || got[0].Image != "turnout" || got[0].ReadinessProbe.HTTPGet.Path != "/readyz" || got[0].LivenessProbe.HTTPGet.Path != "/livez" {
		t.Fatalf("containers %+v", got)
	}
	if diff := cmp.Diff(was[0].Command, got[0].Command); diff != "" {
		t.Errorf("command (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(was[0].VolumeMounts, got[0].VolumeMounts); diff != "" {
		t.Errorf("mounts (-want +got)\n%s", diff)
	}
	if c := got[0].SecurityContext; *c.Privileged || len(c.Capabilities.Add) != 1 || c.Capabilities.Add[0] != "NET_ADMIN" {
		t.Errorf("security context %+v", c)
	}
	if init := patched.Spec.Template.Spec.InitContainers; len(init) != 1 || !*init[0].SecurityContext.Privileged {
		t.Errorf("init containers %+v", init)
	}
	configMap, err := p.Admin.CoreV1().ConfigMaps("kube-system").Get(t.Context(), "kube-proxy", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	checkConfig(t, "kubeadm's ConfigMap", []*unstructured.Unstructured{{Object: map[string]any{"data": map[string]any{"config.conf": configMap.Data["config.conf"]}}}}, 0)
}

// TestKubeadmComponent uses the patches through kustomize, on a copy of the DaemonSet as kubectl get prints it.
func TestKubeadmComponent(t *testing.T) {
	p, _ := newPlane(t)
	ds := kubeadmAddon(t, p, "")
	ds.APIVersion, ds.Kind = "apps/v1", "DaemonSet"
	ds.ManagedFields = nil
	raw, err := yaml.Marshal(ds)
	if err != nil {
		t.Fatal(err)
	}
	dir := overlay(t, "resources: [kube-proxy.yaml]\ncomponents: [MANIFESTS/overlays/kubeadm]\nimages: [{name: turnout, newName: mine/turnout, newTag: v1}]\n",
		map[string]string{"kube-proxy.yaml": string(raw)})
	got := daemonSet(t, build(t, dir)).Spec.Template.Spec
	for _, c := range append(got.InitContainers, got.Containers...) {
		if c.Image != "mine/turnout:v1" {
			t.Errorf("container %s has image %s", c.Name, c.Image)
		}
	}
	if len(got.InitContainers) != 1 || got.Containers[0].ReadinessProbe == nil {
		t.Errorf("not patched: %+v", got)
	}
}

// TestKubesprayPatch checks the variables for Kubespray: they must be the same patch.
func TestKubesprayPatch(t *testing.T) {
	var vars struct {
		Mode    string `json:"kube_proxy_mode"`
		Image   string `json:"turnout_image"`
		Patches []struct {
			Target, Type string
			Patch        apps.DaemonSet
		} `json:"kubeadm_patches"`
	}
	if err := yaml.UnmarshalStrict(read(t, "overlays/kubespray/vars.yaml"), &vars); err != nil {
		t.Fatal(err)
	}
	var want apps.DaemonSet
	if err := yaml.UnmarshalStrict(read(t, "overlays/kubeadm/kubeproxydaemonset1+strategic.yaml"), &want); err != nil {
		t.Fatal(err)
	}
	if vars.Mode != "nftables" || len(vars.Patches) != 1 || vars.Patches[0].Target != "kubeproxydaemonset" || vars.Patches[0].Type != "strategic" {
		t.Fatalf("%+v", vars)
	}
	got := vars.Patches[0].Patch.Spec.Template.Spec.Containers
	got[0].Image = "turnout" // {{ turnout_image }}
	if diff := cmp.Diff(want.Spec.Template.Spec.Containers, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
