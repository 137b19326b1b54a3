package config

import (
	"fmt"
	"slices"
	"strings"
)

// Report is what Check finds out about a file.
type Report struct {
	// Mode is the one that the file was checked for; Said the one that it names, "" if it names none.
	Mode, Said Mode
	// Problems keep the proxy from starting with the file.
	Problems Problems
	// Warnings are those that the proxy logs when it starts with the file.
	Warnings Warnings
	// Notes tell what changes with the mode, and of fields without effect that nothing is lost by.
	Notes Warnings
}

// Check looks at a KubeProxyConfiguration file as the proxy does at its start, without flags beside it. If mode is not "", the
// file is looked at as if it named this mode.
func Check(data []byte, mode Mode) Report {
	res := resolveFile(data, mode)
	r := Report{Mode: res.config.Mode, Said: res.said, Problems: res.problems, Warnings: res.config.Warnings, Notes: res.notes}
	if slices.ContainsFunc(r.Problems, func(p Problem) bool { return p.Where == "" }) {
		return Report{Mode: r.Mode, Problems: r.Problems} // what was not read sets nothing
	}
	if r.Mode == Auto {
		r.Notes.add("mode", "mode %s takes the first of %s that the node can run; check the file for each", Auto, strings.Join(modeNames(Modes), ", "))
	}
	if !slices.Contains(Modes, r.Mode) {
		return r
	}
	if r.Said == "" && mode == "" {
		r.Notes.add("mode", "mode is not set, which means %s; kube-proxy before 1.40 takes iptables", defaultMode)
	}
	before := r.Said
	orDefault(&before, modeBefore)
	r.Notes = append(r.Notes, modeNotes(res.config.External, before, r.Mode)...)
	return r
}

// modeBefore is what an unset mode means to the kube-proxies that files without one were written for.
const modeBefore = IPTables

// resolveFile resolves a file without flags; a mode that is not "" replaces that of the file.
func resolveFile(data []byte, mode Mode) resolution {
	f := noFlags()
	f.configFile = "the file"
	r := f.resolve(func(string) ([]byte, error) { return data, nil }, mode)
	for i := range r.problems {
		if r.problems[i].Where == "--config" {
			r.problems[i].Where = ""
		}
	}
	return r
}

// Summary counts what was found: "mode nftables: 0 errors, 2 warnings".
func (r *Report) Summary() string {
	return fmt.Sprintf("mode %s: %s, %s", r.Mode, count(len(r.Problems), "error"), count(len(r.Warnings), "warning"))
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
