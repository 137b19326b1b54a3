package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"turnout/cmd/turnout/demo"
	"turnout/proxy/proxytest"
)

// proxyEnv makes the test binary be the program that it tests.
const proxyEnv = "TURNOUT_TEST_IS_TURNOUT"

func TestMain(m *testing.M) {
	if os.Getenv(proxyEnv) != "" {
		main()
		return
	}
	os.Exit(proxytest.Main(m))
}

// runDemo runs the demo with this binary as the proxy.
func runDemo(ctx context.Context, t *testing.T, proxyArgs ...string) (output string, err error) {
	t.Helper()
	if err := proxytest.Privileged(); err != nil {
		t.Skipf("needs network namespaces: %v", err)
	}
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Setenv(proxyEnv, "1")
	t.Setenv("TMPDIR", t.TempDir())
	var out bytes.Buffer
	err = demo.Run(ctx, demo.Options{Executable: "/proc/self/exe", Args: proxyArgs, Out: &out})
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "turnout-demo-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	return out.String(), err
}

func TestDemo(t *testing.T) {
	out, err := runDemo(t.Context(), t)
	if err != nil || strings.Contains(out, "FAIL") || !regexp.MustCompile(`\n\d\d checks in .* all ok\n$`).MatchString(out) {
		t.Errorf("%v\n%s", err, out)
	}
	if strings.Contains(out, "\x1b") || strings.Contains(out, "\r") {
		t.Errorf("escape sequences for what is no terminal: %q", out)
	}
}

// A proxy that does not do as it should is found out: this one serves NodePorts on no address of the node.
func TestDemoFails(t *testing.T) {
	out, err := runDemo(t.Context(), t, "--nodeport-addresses=192.0.2.0/24")
	if err == nil || !strings.Contains(err.Error(), "checks failed") {
		t.Errorf("error: %v", err)
	}
	for _, part := range []string{"NodePort, policy Local): 500 connections, 500 failed", "FAIL\n", "The proxy's log:\n", `"Starting"`} {
		if !strings.Contains(out, part) {
			t.Errorf("%q is missing in:\n%s", part, out)
		}
	}
}

// A proxy that does not start is the end, with its reason.
func TestDemoWithoutProxy(t *testing.T) {
	out, err := runDemo(t.Context(), t, "--no-such-flag")
	if err == nil || !strings.Contains(err.Error(), "the proxy has ended: exit status 1") || !strings.Contains(out, "--no-such-flag: is not a flag") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestDemoInterrupted(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	out, err := runDemo(ctx, t)
	if err == nil || err.Error() != "interrupted" || strings.Contains(out, "all ok") {
		t.Errorf("%v\n%s", err, out)
	}
}
