package config

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong with the command line or the configuration file.
type Problem struct {
	// Where is what has to be changed: a flag ("--conntrack-min"), a field path ("conntrack.min") or an argument; "" for all of a file.
	Where string
	// Text names the value, what is wrong with it, and what to do.
	Text string
}

// Error returns "where: text".
func (p Problem) Error() string {
	if p.Where == "" {
		return p.Text
	}
	return p.Where + ": " + p.Text
}

// Problems is an error that holds every Problem that was found, in the order of the command line and then of the file.
type Problems []Problem

// Error returns one line that counts the problems, then one line for each.
func (ps Problems) Error() string {
	var b strings.Builder
	if len(ps) == 1 {
		b.WriteString("1 problem:")
	} else {
		fmt.Fprintf(&b, "%d problems:", len(ps))
	}
	for _, p := range ps {
		b.WriteString("\n  " + p.Error())
	}
	return b.String()
}

// Unwrap returns each Problem as an error of its own.
func (ps Problems) Unwrap() []error {
	errs := make([]error, len(ps))
	for i, p := range ps {
		errs[i] = p
	}
	return errs
}

// add appends a Problem; the text is a format.
func (ps *Problems) add(where, format string, args ...any) {
	*ps = append(*ps, Problem{Where: where, Text: fmt.Sprintf(format, args...)})
}
