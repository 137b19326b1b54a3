package iptables

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Kind says in what way a program of iptables did not do what it should.
type Kind uint8

// The kinds of an Error.
const (
	// Refused: the program, or the kernel, did not accept the input.
	Refused Kind = iota
	// Missing: there is no such program, or it cannot be run.
	Missing
	// TooOld: its version cannot do what is needed.
	TooOld
	// Incompatible: it cannot read a table, since there are rules in it that another program wrote, natively or in a newer version.
	Incompatible
	// Crashed: it was ended by a signal.
	Crashed
	// TimedOut: it did not end in time, and was killed.
	TimedOut
	// Locked: another process held the lock of iptables-legacy all the time.
	Locked
	// NotPermitted: this process may not change packet filters.
	NotPermitted
	// Canceled: the caller did not want to wait any longer.
	Canceled
	// NoRoom: the kernel did not take the input because of its size, or has no memory left. That says nothing about any line of it.
	NoRoom
)

var kinds = [...]struct{ what, remedy string }{
	Refused:      {"refused its input", ""},
	Missing:      {"cannot be run", "install iptables 1.8 or later, or use mode nftables, which needs no program"},
	TooOld:       {"is too old", "use iptables 1.6.2 or later, better 1.8.8 or later, or mode nftables, which needs no program"},
	Incompatible: {"cannot read what is there", "use mode nftables, or a newer version of iptables, or have the other program keep its rules in a table of its own"},
	Crashed:      {"crashed", "its version may not fit the kernel or what newer versions wrote: use a newer one, or mode nftables, which needs no program"},
	TimedOut:     {"did not end in time and was killed", "see what keeps it waiting, such as the lock /run/xtables.lock, or use mode nftables, which needs no program"},
	Locked:       {"did not get its lock", "another process holds /run/xtables.lock: find it with fuser /run/xtables.lock"},
	NotPermitted: {"may not change packet filters", "run as root with the capability CAP_NET_ADMIN in the node's network namespace"},
	Canceled:     {"was told to stop", ""},
	NoRoom:       {"cannot hand its input to the kernel", "raise net.core.wmem_max of the machine if the cluster is rootless, otherwise see whether the node has memory left"},
}

// Error is the failure of a program.
type Error struct {
	Program string
	Version string // "" if not known
	Kind    Kind
	// Line is the number of the line that was refused, 0 if it was not told.
	Line int
	// Detail is what the program said.
	Detail string
	// Rules are those of others that keep it from reading a table.
	Rules []string
	// Holder is who has the lock, "" if that is not known.
	Holder string
	Err    error
}

// Error says what happened and what helps.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Program)
	if e.Version != "" {
		b.WriteString(" " + e.Version)
	}
	b.WriteString(" " + kinds[e.Kind].what)
	if e.Detail != "" {
		b.WriteString(": " + strings.Join(strings.Fields(e.Detail), " "))
	}
	if e.Err != nil {
		fmt.Fprintf(&b, " (%v)", e.Err)
	}
	if len(e.Rules) > 0 {
		b.WriteString("; in the way: " + strings.Join(e.Rules, ", "))
	}
	if e.Holder != "" {
		b.WriteString("; it is held by " + e.Holder)
	}
	if r := kinds[e.Kind].remedy; r != "" {
		b.WriteString("; " + r)
	}
	return b.String()
}

// refused tells that a program did not accept its input.
func refused(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Kind == Refused
}

// oneLine is the text of an error without line breaks.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// lineNumber is in what iptables-restore of either variant says about the line that it stopped at.
var lineNumber = regexp.MustCompile(`(?i)line:? (\d+)`)

// classify decides on the kind, by the exit status or 128 and the signal; limited and caller are the errors of the contexts, with and without
// the timeout.
func (e *Error) classify(code int, limited, caller error, timeout time.Duration) {
	said := strings.ToLower(e.Detail)
	switch {
	case caller != nil:
		e.Kind, e.Err = Canceled, caller
	case errors.Is(limited, context.DeadlineExceeded):
		e.Kind, e.Err = TimedOut, fmt.Errorf("no answer within %v", timeout)
	case code < 0 || code == 126 || code == 127:
		e.Kind = Missing
	case code > 128:
		e.Kind, e.Err = Crashed, fmt.Errorf("signal %d, %s", code-128, unix.SignalName(unix.Signal(code-128)))
	case strings.Contains(said, "xtables lock"):
		e.Kind = Locked
	case strings.Contains(said, "message too long") || strings.Contains(said, "no buffer space") || strings.Contains(said, "cannot allocate memory"):
		e.Kind = NoRoom
	case strings.Contains(said, "permission denied") || strings.Contains(said, "operation not permitted"):
		e.Kind = NotPermitted
	case strings.Contains(said, "incompatible") || strings.Contains(said, "parsing nftables rule failed"):
		e.Kind = Incompatible
	case strings.Contains(said, "unrecognized option") || strings.Contains(said, "unknown option"):
		e.Kind = TooOld
	}
	if m := lineNumber.FindStringSubmatch(e.Detail); m != nil && e.Kind == Refused {
		e.Line, _ = strconv.Atoi(m[1])
	}
}
