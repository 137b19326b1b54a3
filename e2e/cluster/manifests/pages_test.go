package manifests

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"turnout/proxy/proxytest/lab"
)

// readme and the other pages whose commands are run.
const (
	readme        = "README.md"
	install       = "docs/install.md"
	migrate       = "docs/migrate.md"
	troubleshoot  = "docs/troubleshoot.md"
	configuration = "docs/configuration.md"
	preflight     = "docs/preflight.md"
)

// programs are the words that commands of the pages begin with; in text, code that begins otherwise is no command.
var programs = []string{
	"ansible-playbook", "bin/turnout", "cd", "conntrack", "curl", "docker", "e2e/kind/run.sh", "ipset", "iptables", "iptables-save", "ipvsadm", "kind", "kubectl",
	"make", "modprobe", "nft", "NODE=worker-1", "sed", "sudo", "turnout",
}

// page is one of the pages, with the commands that it has, in their order, and the YAML files that it shows.
type page struct {
	name     string
	commands []string
	files    []string
}

var (
	fence = regexp.MustCompile("(?ms)^ *```([a-z]*)\n(.*?)\n *```$")
	code  = regexp.MustCompile("(?s)`([^`]+)`")
)

func readPage(t *testing.T, name string) *page {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(folder, "..", name))
	if err != nil {
		t.Fatal(err)
	}
	p := &page{name: name}
	for _, m := range fence.FindAllStringSubmatch(string(raw), -1) {
		switch text := unindented(m[2]); {
		case m[1] == "yaml":
			p.files = append(p.files, text)
		case isCommand(text):
			p.commands = append(p.commands, split(t, text)...)
		}
	}
	for _, m := range code.FindAllStringSubmatch(fence.ReplaceAllString(string(raw), ""), -1) {
		if text := strings.Join(strings.Fields(m[1]), " "); isCommand(text) && strings.Contains(text, " ") {
			p.commands = append(p.commands, text)
		}
	}
	return p
}

func isCommand(text string) bool { return slices.Contains(programs, strings.Fields(text)[0]) }

// unindented is a text without the indentation of its first line.
func unindented(text string) string {
	indent := text[:len(text)-len(strings.TrimLeft(text, " "))]
	return strings.ReplaceAll(strings.TrimPrefix(text, indent), "\n"+indent, "\n")
}

// split splits a script where the shell sees a command end.
func split(t *testing.T, script string) (out []string) {
	t.Helper()
	var command string
	for line := range strings.Lines(script) {
		command += line
		if exec.Command("bash", "-n", "-c", command).Run() == nil && !strings.HasSuffix(command, "|\n") {
			out = append(out, strings.TrimSpace(command))
			command = ""
		}
	}
	if command != "" {
		t.Fatalf("no end of command %q", command)
	}
	return out
}

// file returns the file that the page shows under a name.
func (p *page) file(t *testing.T, name string) string {
	t.Helper()
	for _, f := range p.files {
		if strings.HasPrefix(f, "# "+name+"\n") {
			return f + "\n"
		}
	}
	t.Fatalf("%s has no file %s", p.name, name)
	return ""
}

// shell runs commands of the pages on a machine of the lab, word for word but for what the reader is to fill in.
type shell struct {
	t    *testing.T
	host *lab.Host
	env  []string
	// dir is where commands are run.
	dir   string
	pages map[string]*page
	ran   map[string]bool // by page and command
}

func newShell(t *testing.T, host *lab.Host, env ...string) *shell {
	t.Helper()
	s := &shell{t: t, host: host, env: append(os.Environ(), env...), ran: map[string]bool{}, pages: map[string]*page{}}
	for _, name := range []string{readme, install, migrate, troubleshoot, configuration, preflight} {
		s.pages[name] = readPage(t, name)
	}
	return s
}

// run runs the one command of a page that begins like that, and returns what it prints. Each pair of words stands for what the page leaves open,
// and what is there instead.
func (s *shell) run(page, start string, replace ...string) string {
	s.t.Helper()
	out, err := s.try(page, start, replace...)
	if err != nil {
		s.t.Fatalf("%s: %s: %v\n%s", page, start, err, out)
	}
	return out
}

// try is run for a command that need not succeed.
func (s *shell) try(page, start string, replace ...string) (string, error) {
	s.t.Helper()
	var found []string
	for _, c := range s.pages[page].commands {
		if strings.HasPrefix(c, start) && !slices.Contains(found, c) {
			found = append(found, c)
		}
	}
	if slices.Contains(found, start) { // and is the beginning of others
		found = []string{start}
	}
	if len(found) != 1 {
		s.t.Fatalf("%s has the commands %q, want one", page, found)
	}
	s.ran[page+": "+found[0]] = true
	return s.bash(strings.NewReplacer(replace...).Replace(found[0]))
}

// bash runs a script in the folder. What takes longer than anything should is an error.
func (s *shell) bash(script string) (string, error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	var out strings.Builder
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = s.env, s.dir, &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := s.host.Start(cmd); err != nil {
		return "", err
	}
	err := cmd.Wait()
	s.t.Logf("$ %s\n%s", script, out.String())
	return out.String(), err
}

// write writes a file into the folder.
func (s *shell) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// rest checks that every command of the pages was run or has a reason not to be, and that no reason stands for nothing.
func (s *shell) rest(reasons map[string]string) {
	s.t.Helper()
	used := map[string]bool{}
	for name, p := range s.pages {
		for _, c := range p.commands {
			if s.ran[name+": "+c] {
				continue
			}
			start := ""
			for begin := range reasons {
				if strings.HasPrefix(c, begin) && len(begin) > len(start) {
					start = begin
				}
			}
			used[start] = true
			if start == "" {
				s.t.Errorf("%s: nobody runs %q", name, c)
			}
		}
	}
	for start := range reasons {
		if !used[start] {
			s.t.Errorf("no page has a command %q that is not run", start)
		}
	}
}

// provide has commands find a program under a name.
func (s *shell) provide(name, program string) {
	s.t.Helper()
	bin := filepath.Join(s.t.TempDir(), "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Symlink(program, filepath.Join(bin, name)); err != nil {
		s.t.Fatal(err)
	}
	s.env = append(s.env, fmt.Sprintf("PATH=%s:%s", bin, lookup(s.env, "PATH")))
}

// lookup returns the last value of a variable.
func lookup(env []string, name string) (value string) {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			value = v
		}
	}
	return value
}
