package manifests

import (
	"path/filepath"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"sigs.k8s.io/yaml"
)

// TestMonitoring reads the objects of the Prometheus Operator into its own types: no field that it does not know.
func TestMonitoring(t *testing.T) {
	objects := build(t, filepath.Join(folder, "monitoring"))
	into := map[string]any{"PodMonitor": &monitoring.PodMonitor{}, "PrometheusRule": &monitoring.PrometheusRule{}}
	if len(objects) != len(into) {
		t.Errorf("%d objects, want %d", len(objects), len(into))
	}
	for _, o := range objects {
		raw, err := o.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		typed := into[o.GetKind()]
		if typed == nil {
			t.Errorf("unexpected %s", o.GetKind())
			continue
		}
		if err := yaml.UnmarshalStrict(raw, typed); err != nil {
			t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
	// The alerts name the job that the operator makes of the PodMonitor.
	if m := into["PodMonitor"].(*monitoring.PodMonitor); m.Namespace+"/"+m.Name != "kube-system/turnout" {
		t.Errorf("the job is %s/%s, and kube-system/turnout in the alerts", m.Namespace, m.Name)
	}
}
