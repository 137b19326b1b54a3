// Command turnout is a Kubernetes service proxy: run without a subcommand it is the proxy, with kube-proxy's flags and
// configuration file, whatever name the binary has.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/component-base/logs"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := run(ctx, runProxy, os.Args[1:], os.Stdout, os.Stderr)
	logs.FlushLogs()
	os.Exit(code)
}

// run executes the command line and returns the exit code: 0 for success, and when the context ends; 1 for every error that is no exitError.
func run(ctx context.Context, proxy proxyFunc, args []string, stdout, stderr io.Writer) int {
	root := newRootCommand(proxy)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	exit, ok := errors.AsType[exitError](err)
	switch {
	case err == nil:
		return 0
	case !ok:
		exit = exitError{1, err}
	}
	if exit.err != nil {
		fmt.Fprintf(stderr, "turnout: %v\n", exit.err)
	}
	return exit.code
}

// exitError is an error that asks for an exit code. Without a cause, all was said before.
type exitError struct {
	code int
	err  error
}

func (e exitError) Error() string { return fmt.Sprint(e.err) }

func (e exitError) Unwrap() error { return e.err }
