package dir

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Severity tells what became of the part of a file that has a problem.
type Severity uint8

const (
	// Warning means that the object was loaded all the same, or that a proxy has no use for it.
	Warning Severity = iota
	// Error means that the object, or the file, was not loaded; what was last good stays in use.
	Error
)

// String returns "warning" or "error".
func (s Severity) String() string {
	if s == Error {
		return "error"
	}
	return "warning"
}

// Problem is one thing wrong in the folder. Two problems are the same if they are equal.
type Problem struct {
	File     string // name of the file inside the folder; empty if the folder itself has the problem
	Line     int    // counted from 1; 0 if not known
	Document int    // number of the YAML or JSON document in the file, counted from 1; 0 if the whole file is concerned
	Object   string // such as "Service default/web"; empty if not known
	Severity Severity
	Reason   string // what is wrong and what to do about it
}

// String returns the problem in one line, such as
// "web.yaml:12: document 2: Service default/web: spec.ports[0].port: want int32, have string".
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	if p.Document > 0 {
		fmt.Fprintf(&b, ": document %d", p.Document)
	}
	if p.Object != "" {
		b.WriteString(": " + p.Object)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	b.WriteString(p.Reason)
	return b.String()
}

// maxProblems bounds what one file reports: a dump of a newer Kubernetes may have the same unknown field in every object.
const maxProblems = 20

// bounded returns at most maxProblems problems of one file, errors before warnings and then by line, and says how many it
// left out.
func bounded(file string, problems []Problem) []Problem {
	if len(problems) <= maxProblems {
		return problems
	}
	sorted := slices.Clone(problems)
	slices.SortStableFunc(sorted, func(a, b Problem) int {
		return cmp.Or(-cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.Line, b.Line))
	})
	left := sorted[maxProblems-1:]
	return append(sorted[:maxProblems-1:maxProblems-1], Problem{
		File: file, Line: left[0].Line, Severity: left[0].Severity,
		Reason: fmt.Sprintf("%d more problems in this file; the first: %s", len(left), left[0].Reason),
	})
}

// broken reports whether something in the file was not loaded.
func broken(problems []Problem) bool {
	return slices.ContainsFunc(problems, func(p Problem) bool { return p.Severity == Error })
}
