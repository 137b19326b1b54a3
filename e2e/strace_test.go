package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"turnout/proxy"
)

// TestExecutesNothing traces the proxy from start to end: it executes no other program, and so needs none on the node.
func TestExecutesNothing(t *testing.T) {
	t.Parallel()
	strace := tracer(t)
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	c := newCluster(t)
	c.serve("pod-1", "pod-2")
	s := newService(1, "web", sticky(60))
	c.set(c.with(s, on("pod-1"))...)
	trace := filepath.Join(t.TempDir(), "trace")
	// With -D the proxy is the process that is started, and strace its descendant.
	args := append([]string{"-D", "-f", "-e", "trace=execve,execveat", "-o", trace, path}, c.usualArgs()...)
	p := c.run(exec.Command(strace, args...))
	p.follow()
	flow := flow(t, c, "client", s, proxy.NodePort, proxy.IPv4)
	reaches(t, flow, "pod-1")
	c.set(c.endpoints(s, on("pod-2"))...)
	p.follow()
	reaches(t, flow, "pod-2") // a stale flow was removed
	c.remove(c.with(s)...)
	p.follow()
	p.stop()
	executions(t, trace, path)
}

// tracer returns the path of strace, or skips the test with the reason why it cannot trace.
func tracer(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("strace")
	if err != nil {
		t.Skipf("needs strace: %v", err)
	}
	if out, err := exec.Command(path, "-f", "-o", os.DevNull, os.Args[0], "-test.run=^$").CombinedOutput(); err != nil {
		t.Skipf("strace cannot trace here: %v: %s", err, bytes.TrimSpace(out))
	}
	return path
}

// executions waits until the whole trace is written, and judges it.
func executions(t *testing.T, trace, binary string) {
	t.Helper()
	var lines []string
	eventually(t, "at the end of the trace", func() bool {
		text, err := os.ReadFile(trace)
		if err != nil {
			t.Fatal(err)
		}
		lines = strings.Split(strings.TrimSpace(string(text)), "\n")
		return strings.Contains(lines[len(lines)-1], "+++ exited with 0 +++")
	})
	count := 0
	for _, line := range lines {
		if !strings.Contains(line, "exec") {
			continue
		}
		count++
		// The race detector's runtime may start the program anew, with other addresses.
		if !strings.Contains(line, `execve("`+binary+`"`) || (count > 1 && len(buildFlags) == 0) {
			t.Errorf("executed: %s", line)
		}
	}
	if count == 0 {
		t.Errorf("not even the first execution is in the trace:\n%s", strings.Join(lines, "\n"))
	}
}
