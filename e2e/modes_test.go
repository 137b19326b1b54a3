package e2e

import (
	"flag"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// modeFlag runs the proxy of the tests in another mode than nftables. TestOtherModes has the tests of traffic run in mode iptables, and
// hack/test-kernels.sh in mode ipvs, on kernels that have it.
var modeFlag = flag.String("mode", "nftables", "the mode of the proxy: nftables, iptables-nft, iptables-legacy or ipvs")

// trafficFlag is for test binaries that run where there is no go test.
var trafficFlag = flag.Bool("traffic", false, "run the tests that say what happens to traffic, in whatever mode, and no others")

// proxyMode is the mode by the name that the proxy has for it.
func proxyMode() string {
	mode, _, _ := strings.Cut(*modeFlag, "-")
	return mode
}

// forMode makes the node one of the mode, and completes the arguments of a proxy so that it does the same in each.
func (c *cluster) forMode(args []string) []string {
	mode, variant, _ := strings.Cut(*modeFlag, "-")
	if mode == "nftables" {
		return args
	}
	if variant != "" {
		c.hintAt(variant)
	}
	if !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--nodeport-addresses") }) {
		args = append(args, "--nodeport-addresses=primary") // the default of mode nftables
	}
	return args
}

// hintAt tells which of the two variants of iptables the node uses, in kubelet's way.
func (c *cluster) hintAt(variant string) {
	for _, name := range []string{"iptables-", "ip6tables-"} {
		cmd := exec.Command(name+variant, "-w", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
		if err := c.Node().Start(cmd); err != nil {
			c.t.Fatalf("start %s: %v", cmd, err)
		}
		_ = cmd.Wait() // it is there already if the proxy is started again
	}
}

// localhostServed tells whether NodePorts are served on IPv4 loopback addresses, with a value of --nodeport-addresses.
func localhostServed(addresses string) bool {
	return proxyMode() == "iptables" && (addresses == "localhost" || addresses == "all" || strings.Contains(addresses, "/0"))
}

// Tests that say what happens to traffic, in whatever mode.
const trafficTests = "TestBadObjects|TestHitlessProxy|TestRandom|TestRestartUDP|TestStop|TestAffinity|TestAffinityWithinPool|TestAffinityOff|TestHairpin|TestHostNetwork|" +
	"TestEndpointSelection|TestOneFamily|TestHealthCheckNodePort|TestMasqueradeAll|TestPodDetection|TestNoPodDetection|TestNodePortAddresses|TestExternalIPsOff|" +
	"TestTraffic|TestNoSuchPort|TestSourceRanges|TestStaleUDPFlows|TestUDPFlowBeforeService|TestTCPFlowsStay"

// TestOtherModes runs the tests of traffic in mode iptables, with both variants of its programs: what happens to a packet is the same in all modes.
func TestOtherModes(t *testing.T) {
	if *modeFlag != "nftables" {
		t.Skip("runs in mode nftables only")
	}
	binary, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"iptables-nft", "iptables-legacy"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(mode); err != nil {
				t.Skipf("needs the command %s: %v", mode, err)
			}
			cmd := exec.Command(os.Args[0], "-traffic", "-mode="+mode, "-binary="+binary, "-hitless.for=2s", "-test.timeout=15m") // changes take longer there
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
