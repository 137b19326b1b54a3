package plane

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"turnout/proxy/proxytest/lab"
)

// A process is started, asked and ended in each of the ways.
func TestProcess(t *testing.T) {
	l := lab.ForTest(t)
	log := filepath.Join(t.TempDir(), "log")
	run := func(script string) *Process {
		t.Helper()
		p, err := Run(l.Node(), log, "/bin/sh", "-c", script)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := run("cat /proc/net/dev; exit 3")
	if code := p.ExitCode(); code != 3 || p.Running() || !strings.Contains(p.Log(), "veth-pod-1:") {
		t.Errorf("exit code %d, running %t, log:\n%s", code, p.Running(), p.Log())
	}
	for _, row := range []struct{ name, script, want string }{
		{"in good order", "trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done", ""},
		{"with an error", "trap 'exit 4' TERM; echo up; while :; do sleep 0.01; done", "sh ended with exit status 4"},
		{"not at all", "trap '' TERM; echo up; while :; do sleep 0.01; done", "sh did not end within 100ms of SIGTERM"},
	} {
		t.Run(row.name, func(t *testing.T) {
			before := len(p.Log())
			p := run(row.script)
			for !strings.Contains(p.Log()[before:], "up") {
				time.Sleep(time.Millisecond)
			}
			timeout := patience
			if strings.Contains(row.want, "100ms") {
				timeout = 100 * time.Millisecond
			}
			got := ""
			if err := p.Stop(timeout); err != nil {
				got = err.Error()
			}
			if got != row.want || p.Running() {
				t.Errorf("Stop: %q, want %q; running: %t", got, row.want, p.Running())
			}
		})
	}
	if _, err := Run(l.Node(), log, "/nonexistent/program"); err == nil {
		t.Error("a program that does not exist was started")
	}
}
