package compare

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"turnout/e2e/cluster/compare/beside"
)

// TestTakeOverLegacy starts Turnout, in each mode that the machine can have, where kube-proxy was killed that wrote its rules with iptables-legacy.
// Everything goes as with the other variant, and nothing is left in the tables of iptables-legacy.
func TestTakeOverLegacy(t *testing.T) {
	for _, name := range []string{"iptables-legacy", "ip6tables-legacy", "iptables-nft", "ip6tables-nft"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("needs the command %s: %v", name, err)
		}
	}
	for _, to := range usableModes(t) {
		t.Run(fmt.Sprintf("to %s", to.mode()), func(t *testing.T) {
			program := binaries(t)
			p := newLabs(t, to, program.Turnout, program.Turnout)
			p.turnout.Name, p.upstream.Name = "after", "clean"
			for _, side := range p.sides() {
				// In mode iptables Turnout is to use the other variant in both labs.
				for _, name := range []string{"iptables-nft", "ip6tables-nft"} {
					onNode(t, side, name, "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
				}
			}
			p.handOver(t, withLegacy(t, program.KubeProxy), p.config(t, inMode("iptables")), program.Turnout, p.path)
			if !strings.Contains(onNode(t, p.turnout, "iptables-legacy-save"), "*nat") {
				t.Error("kube-proxy did not use iptables-legacy: there is no such table")
			}
			left := ""
			for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
				left = ""
				for _, name := range []string{"iptables-legacy-save", "ip6tables-legacy-save"} {
					for line := range strings.Lines(onNode(t, p.turnout, name)) {
						if strings.Contains(line, "KUBE-") && !strings.Contains(line, "KUBE-FIREWALL") {
							left += line
						}
					}
				}
				if left == "" {
					return
				}
			}
			t.Errorf("left in the tables of iptables-legacy:\n%s", left)
		})
	}
}

// withLegacy returns a program that runs another one which finds the programs of iptables-legacy under the names without a variant.
func withLegacy(t *testing.T, program string) string {
	t.Helper()
	dir := t.TempDir()
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, suffix := range []string{"", "-save", "-restore"} {
			path, err := exec.LookPath(family + "-legacy" + suffix)
			if err != nil {
				t.Skipf("needs the command %s: %v", family+"-legacy"+suffix, err)
			}
			if err := os.Symlink(path, filepath.Join(dir, family+suffix)); err != nil {
				t.Fatal(err)
			}
		}
	}
	script := filepath.Join(dir, "with-legacy")
	text := fmt.Sprintf("#!/bin/sh\nPATH=%s:$PATH exec %s \"$@\"\n", dir, program)
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return script
}

// onNode runs a command on the node of a lab and returns what it prints.
func onNode(t *testing.T, side *beside.Side, name string, args ...string) string {
	t.Helper()
	var out, warnings strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &warnings
	err := side.Node().Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatalf("%s: %v: %s", cmd, err, warnings.String())
	}
	return out.String()
}
