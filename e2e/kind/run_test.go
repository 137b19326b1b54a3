package kind

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden file")

// script runs run.sh with an environment of its own, and returns what it printed and its exit status.
func script(t *testing.T, env []string, args ...string) (string, int) {
	t.Helper()
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip(err)
	}
	cmd := exec.Command("bash", append([]string{"run.sh"}, args...)...)
	cmd.Env = append(os.Environ(), append([]string{"GOARCH=amd64", "E2E_BINARIES=", "KIND_IMAGE="}, env...)...)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// TestDryRun compares the commands with the golden file, and checks that the files that they name are there.
func TestDryRun(t *testing.T) {
	out, code := script(t, nil, "--dry-run")
	const golden = "testdata/dry-run.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(out), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out); diff != "" || code != 0 {
		t.Errorf("exit status %d (-want +got)\n%s", code, diff)
	}
	files := regexp.MustCompile(`manifests/[a-z/.]+`).FindAllString(out, -1)
	if len(files) < 2 {
		t.Errorf("only %q named", files)
	}
	for _, file := range files {
		if _, err := os.Stat(filepath.Join("../..", file)); err != nil {
			t.Error(err)
		}
	}
}

// TestRun runs the script with programs that only note how they were called, of which one fails.
func TestRun(t *testing.T) {
	for _, test := range []struct {
		name, fails string
		args        []string
		code        int
		ends, lacks string
	}{
		{name: "all is well", ends: "kind delete cluster --name turnout"},
		{name: "tests fail", fails: "ginkgo", code: 7, ends: "kind delete cluster --name turnout"},
		{name: "no cluster", fails: "kind", code: 7, ends: "kind delete cluster --name turnout", lacks: "ginkgo"},
		{name: "no image", fails: "make", code: 7, ends: "make image IMAGE=turnout:e2e", lacks: "kind"},
		{name: "kept", args: []string{"--keep"}, ends: "kind export logs", lacks: "delete"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			calls := filepath.Join(dir, "calls")
			for _, tool := range []string{"docker", "kind", "kubectl", "make", "curl", "tar", "ginkgo", "e2e.test"} {
				code := 0
				if tool == test.fails {
					code = 7
				}
				text := fmt.Sprintf("#!/bin/sh\necho %s \"$@\" >>%s\nexit %d\n", tool, calls, code)
				if err := os.WriteFile(filepath.Join(dir, tool), []byte(text), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			env := []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "E2E_BINARIES=" + dir}
			out, code := script(t, env, append(test.args, "--results", filepath.Join(dir, "results"))...)
			if code != test.code {
				t.Errorf("exit status %d, want %d:\n%s", code, test.code, out)
			}
			raw, err := os.ReadFile(calls)
			if err != nil {
				t.Fatal(err)
			}
			lines := slices.Collect(strings.Lines(string(raw)))
			if last := lines[len(lines)-1]; !strings.HasPrefix(last, test.ends) {
				t.Errorf("ends with %q, want %q", last, test.ends)
			}
			if test.lacks != "" && strings.Contains(string(raw), test.lacks) {
				t.Errorf("%q was called:\n%s", test.lacks, raw)
			}
		})
	}
}

// TestUsage checks that what the script does not know ends it.
func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"--nope"}, {"--focus"}} {
		if out, code := script(t, nil, args...); code != 2 || out == "" {
			t.Errorf("%v: exit status %d, %q", args, code, out)
		}
	}
}

// TestShellcheck has shellcheck look at the scripts of the image and of kind.
func TestShellcheck(t *testing.T) {
	if _, err := exec.LookPath("shellcheck"); err != nil {
		t.Skip(err)
	}
	files := []string{"run.sh", "../image/testdata/container", "../../hack/image.sh", "../../hack/manifests.sh"}
	if out, err := exec.Command("shellcheck", files...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
