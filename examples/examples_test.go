package examples_test

import (
	"os"
	"slices"
	"testing"

	"turnout/examples"
	"turnout/proxy/source/dir"
)

// The proxy reads every file without a complaint, and each Service but one has endpoints.
func TestExamplesAreReadWithoutProblems(t *testing.T) {
	folder := t.TempDir()
	if err := os.CopyFS(folder, examples.Files); err != nil {
		t.Fatal(err)
	}
	objects, problems, err := dir.Load(folder, "n1")
	if err != nil || len(problems) > 0 {
		t.Fatalf("%v %v", problems, err)
	}
	if objects.Node == nil || len(objects.ServiceCIDRs) != 1 {
		t.Errorf("node %v, %d ServiceCIDRs", objects.Node, len(objects.ServiceCIDRs))
	}
	endpoints := map[string]int{}
	for _, s := range objects.EndpointSlices {
		endpoints[s.Labels["kubernetes.io/service-name"]] += len(s.Endpoints)
	}
	var without []string
	for _, s := range objects.Services {
		if endpoints[s.Name] == 0 {
			without = append(without, s.Name)
		}
		delete(endpoints, s.Name)
	}
	if !slices.Equal(without, []string{"empty"}) || len(endpoints) > 0 || len(objects.Services) < 5 {
		t.Errorf("%d Services; without endpoints: %v; endpoints of no Service: %v", len(objects.Services), without, endpoints)
	}
}
