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
	// Warnings are those that the proxy logs when it starts with the file, and one if this build does not have the mode.
	Warnings Warnings
	// Notes tell what changes with the mode, and of fields without effect that nothing is lost by.
	Notes Warnings
}

// Check looks at a KubeProxyConfiguration file as the proxy does at its start, without flags beside it. If mode is not "", the
// file is looked at as if it named this mode. Modes that this build does not have are checked as well.
func Check(data []byte, mode Mode) Report {
	res := resolveFile(data, mode)
	r := Report{Mode: res.config.Mode, Said: res.said, Problems: res.problems, Warnings: res.config.Warnings, Notes: res.notes}
	if slices.ContainsFunc(r.Problems, func(p Problem) bool { return p.Where == "" }) {
		return Report{Mode: r.Mode, Problems: r.Problems} // what was not read sets nothing
	}
	if !slices.Contains(Modes, r.Mode) {
		return r
	}
	if !slices.Contains(runnable, r.Mode) {
		r.Warnings.add("mode", "mode: %s: this build has the modes %s, and does not start with another", r.Mode, strings.Join(modeNames(runnable), " and "))
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
	r := f.resolve(func(string) ([]byte, error) { return data, nil }, wish{modes: Modes, instead: mode})
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
