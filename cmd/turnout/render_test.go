package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Mode auto is rendered as the mode that comes first, whose NodePorts are served elsewhere than those of the others.
func TestRenderOfAuto(t *testing.T) {
	out := map[string]string{}
	for _, mode := range []string{"nftables", "auto"} {
		r := execute(t.Context(), t, nil, "render", "--manifests=../../examples", "--hostname-override=n1", "--proxy-mode="+mode)
		if r.code != 0 || !strings.Contains(r.stdout, "table ip kube-proxy") {
			t.Fatalf("mode %s: %+v", mode, r)
		}
		out[mode] = r.stdout
	}
	if diff := cmp.Diff(out["nftables"], out["auto"]); diff != "" {
		t.Errorf("-nftables +auto\n%s", diff)
	}
}
