package manifests

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"turnout/e2e/cluster/plane"
)

// TestStaged moves nodes from kube-proxy to Turnout and back by their label, and watches where the DaemonSet controller runs what.
func TestStaged(t *testing.T) {
	p, _ := newPlane(t)
	kubeadmAddon(t, p, "")
	c := newClient(t, p)
	c.apply(build(t, folder+"/overlays/staged")...)
	patch, err := yaml.YAMLToJSON(read(t, "overlays/staged/kube-proxy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Admin.AppsV1().DaemonSets("kube-system").Patch(t.Context(), "kube-proxy", types.StrategicMergePatchType, patch,
		metav1.PatchOptions{FieldValidation: metav1.FieldValidationStrict}); err != nil {
		t.Fatal(err)
	}
	runs(t, p, map[string]string{"n1": "kube-proxy", "n2": "kube-proxy"})
	label(t, p, "n1", "none")
	runs(t, p, map[string]string{"n2": "kube-proxy"})
	label(t, p, "n1", "turnout")
	runs(t, p, map[string]string{"n1": "turnout", "n2": "kube-proxy"})
	label(t, p, "n2", "turnout")
	runs(t, p, map[string]string{"n1": "turnout", "n2": "turnout"})
	label(t, p, "n1", nil)
	runs(t, p, map[string]string{"n1": "kube-proxy", "n2": "turnout"})
}

// label gives a node the label service-proxy with a value, or takes it away.
func label(t *testing.T, p *plane.Plane, node string, value any) {
	t.Helper()
	if err := p.PatchNode(t.Context(), node, map[string]any{"metadata": map[string]any{"labels": map[string]any{"service-proxy": value}}}); err != nil {
		t.Fatal(err)
	}
}

// runs waits until the pods of the two DaemonSets are those given by node. Meanwhile it is the scheduler, which binds pods to the node
// that their DaemonSet made them for, and the kubelet, which lets those go that are told to end.
func runs(t *testing.T, p *plane.Plane, want map[string]string) {
	t.Helper()
	pods := p.Admin.CoreV1().Pods("kube-system")
	eventually(t, func(ctx context.Context) error {
		list, err := pods.List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		got := map[string]string{}
		for _, pod := range list.Items {
			if pod.DeletionTimestamp != nil {
				_ = pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
				continue
			}
			terms := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
			node := terms[0].MatchFields[0].Values[0]
			if pod.Spec.NodeName == "" {
				binding := &v1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod.Name}, Target: v1.ObjectReference{Kind: "Node", Name: node}}
				_ = pods.Bind(ctx, binding, metav1.CreateOptions{}) // tried again if it fails
			}
			got[node] += pod.Labels["k8s-app"]
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("pods by node (-want +got)\n%s", diff)
		}
		return nil
	})
}
