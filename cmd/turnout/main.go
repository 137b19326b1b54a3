// Command turnout is a Kubernetes service proxy: run without a subcommand it is the proxy, with kube-proxy's flags and
// configuration file, whatever name the binary has.
package main

import (
	"context"
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

// run executes the command line and returns the exit code: 0 for success, and when the context ends; 1 for every error.
func run(ctx context.Context, proxy proxyFunc, args []string, stdout, stderr io.Writer) int {
	root := newRootCommand(proxy)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(stderr, "turnout: %v\n", err)
		return 1
	}
	return 0
}
