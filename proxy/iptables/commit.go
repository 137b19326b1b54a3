package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// programs are the commands of one variant for one family. This file is the only one that runs any.
type programs struct {
	family  proxy.Family
	variant Variant
	version string // such as "1.8.9"
	// command, restoring and saving are the programs' paths.
	command, restoring, saving string
	timeout                    time.Duration
}

// lockSeconds is how long the programs of iptables-legacy wait for the lock that keeps two of them from overwriting each other's work.
const lockSeconds = "5"

// restore gives a script to iptables-restore. Every table of it is carried out as a whole or not at all, one after the other.
func (p *programs) restore(ctx context.Context, text []byte) error {
	_, err := p.run(ctx, text, p.restoring, "--noflush", "--wait", lockSeconds)
	return err
}

// test gives a script to iptables-restore without having it carried out.
func (p *programs) test(ctx context.Context, text []byte) error {
	_, err := p.run(ctx, text, p.restoring, "--noflush", "--test", "--wait", lockSeconds)
	return err
}

// save returns what iptables-save prints of a table.
func (p *programs) save(ctx context.Context, table string) (string, error) {
	out, err := p.run(ctx, nil, p.saving, "-t", table)
	if err == nil && strings.Contains(out, "is incompatible") {
		err = &Error{Program: p.saving, Version: p.version, Kind: Incompatible, Detail: "table " + table + " cannot be read"}
	}
	return out, err
}

// timePerLine is what iptables-restore may take for each line of its input, beside the timeout. iptables-nft has needed a fifth of it for 190,000 lines.
const timePerLine = time.Millisecond

func (p *programs) run(ctx context.Context, in []byte, path string, args ...string) (string, error) {
	timeout := p.timeout + time.Duration(bytes.Count(in, []byte{'\n'}))*timePerLine
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(limited, path, args...)
	cmd.Stdin = bytes.NewReader(in)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	// A program may be a script that started others, which would keep its output open.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if err == nil {
		return out.String(), nil
	}
	e := &Error{Program: path, Version: p.version, Detail: strings.TrimSpace(said.String()), Err: err}
	code := -1
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
		if s, ok := exit.Sys().(syscall.WaitStatus); ok && s.Signaled() {
			code = 128 + int(s.Signal())
		}
	}
	e.classify(code, limited.Err(), ctx.Err(), timeout)
	if e.Kind == Locked {
		e.Holder = lockHolder()
	}
	return out.String(), e
}

// findPrograms looks for the commands of a variant, and asks for their version.
func findPrograms(ctx context.Context, o *Options, v Variant) (*programs, error) {
	base := "iptables"
	if o.Family == proxy.IPv6 {
		base = "ip6tables"
	}
	var err error
	for _, name := range []string{base + "-" + string(v), base} {
		p := &programs{family: o.Family, variant: v, timeout: o.Timeout}
		p.command, err = o.find(name)
		if err != nil {
			continue
		}
		p.restoring, err = o.find(name + "-restore")
		if err != nil {
			continue
		}
		p.saving, err = o.find(name + "-save")
		if err != nil {
			continue
		}
		return p, p.probe(ctx)
	}
	return nil, &Error{Program: base + "-" + string(v), Kind: Missing, Err: err}
}

// find looks for a program in the options' path.
func (o *Options) find(name string) (string, error) {
	if o.Path == "" {
		return exec.LookPath(name)
	}
	for _, dir := range filepath.SplitList(o.Path) {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is not in %s", name, o.Path)
}
