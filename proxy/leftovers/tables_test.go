package leftovers

import (
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// Tables of iptables-legacy are read as they are, and looking makes none.
func TestKernelLegacyTables(t *testing.T) {
	for _, f := range proxy.Families {
		program, to := "iptables-legacy", "192.0.2.1:80"
		if f == proxy.IPv6 {
			program, to = "ip6tables-legacy", "[2001:db8::1]:80"
		}
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s: %v", program, err)
		}
		proxytest.InNamespace(t, func() {
			if got, err := LegacyTables(f); err != nil || len(got) != 0 {
				t.Fatalf("%v, %v in an empty namespace", got, err)
			}
			for _, args := range [][]string{
				{"-N", "CNI-DN"}, {"-A", "CNI-DN", "-p", "tcp", "-j", "DNAT", "--to-destination", to}, {"-A", "OUTPUT", "-j", "CNI-DN"}, {"-A", "POSTROUTING", "-j", "MASQUERADE"},
			} {
				if out, err := exec.Command(program, append([]string{"-t", "nat"}, args...)...).CombinedOutput(); err != nil {
					t.Skipf("needs a kernel with iptables-legacy: %v\n%s", err, out)
				}
			}
			got, err := LegacyTables(f)
			want := []LegacyTable{{Name: "nat", Chains: []string{"CNI-DN"}, Targets: map[string][]string{"CNI-DN": {"DNAT"}, "": {"MASQUERADE"}}}}
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("%s: %v, -want +got:\n%s", f, err, diff)
			}
		})
	}
}
