package proxytest

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Command runs a command in the network namespace of the calling thread, and returns what it says. Without such a command the test is skipped.
func Command(t *testing.T, command string) string {
	t.Helper()
	words := strings.Fields(command)
	if _, err := exec.LookPath(words[0]); err != nil {
		t.Skipf("needs the command %s: %v", words[0], err)
	}
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE="+os.DevNull) // the namespace is the test's own, and the lock is not
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}
