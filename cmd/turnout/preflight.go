package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"turnout/proxy/config"
	"turnout/proxy/preflight"
)

// preflightFlags are the flags of `turnout preflight`.
type preflightFlags struct {
	to, output, file, cniDir, root, metrics string
}

// newPreflightCommand returns `turnout preflight`.
func newPreflightCommand() *cobra.Command {
	f := preflightFlags{cniDir: "/etc/cni/net.d", root: "/", metrics: "127.0.0.1:10249"}
	cmd := &cobra.Command{
		Use:   "preflight --to MODE [--config FILE]",
		Short: "Say what a change to a mode meets on this node",
		Long: `Preflight looks at this node and says what is in the way of a mode, what else will change with it, and what to do. It changes
nothing: what the mode needs is tried in a network namespace of its own, and only if that cannot make the kernel load a module. Run it on the
node as root.

The exit code is 0 if all is well, 1 if there are warnings, and 2 if the mode cannot work there or the command line is wrong.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return exitError{2, fmt.Errorf("%q is not a flag; give the mode with --to", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return exitError{2, err} })
	cmd.Flags().StringVar(&f.to, "to", "", "The mode: nftables, iptables, ipvs or auto.")
	cmd.Flags().StringVarP(&f.output, "output", "o", "text", "Format of the output: text or json.")
	cmd.Flags().StringVar(&f.file, "config", "", "The configuration file that the proxy will have.")
	cmd.Flags().StringVar(&f.cniDir, "cni-dir", f.cniDir, "The folder with the configuration of CNI plugins, below --root.")
	cmd.Flags().StringVar(&f.root, "root", f.root, "The folder that has the node's /lib/modules, /etc/cni and /sys, where this is run in a container.")
	cmd.Flags().StringVar(&f.metrics, "metrics-address", f.metrics, "Where the metrics server of a running proxy is asked for its mode; empty for not to ask.")
	return cmd
}

func (f *preflightFlags) run(ctx context.Context, out io.Writer) error {
	mode, o, err := f.options()
	if err != nil {
		return exitError{2, err}
	}
	// The trials' own namespaces have nothing that a lock would protect, and a lock file that is not there need not be made.
	if err := os.Setenv("XTABLES_LOCKFILE", os.DevNull); err != nil {
		return exitError{2, err}
	}
	r := preflight.Judge(preflight.Gather(ctx, o), mode)
	write := r.Write
	if f.output == "json" {
		write = r.WriteJSON
	}
	if err := write(out); err != nil {
		return exitError{2, fmt.Errorf("write the report: %w", err)}
	}
	if r.Level != preflight.OK {
		return exitError{int(r.Level), nil}
	}
	return nil
}

// options reads the flags, and tells all that is wrong with them.
func (f *preflightFlags) options() (config.Mode, preflight.Options, error) {
	o := preflight.Options{File: f.file, CNI: f.cniDir, Root: f.root}
	var errs []error
	mode := config.Auto
	switch f.to {
	case "":
		errs = append(errs, errors.New("--to is missing: give nftables, iptables, ipvs or auto"))
	case string(config.Auto):
		o.Modes = preflight.Modes
	default:
		var err error
		if mode, err = parseMode("to", f.to, false); err != nil {
			err = fmt.Errorf("%w, or auto", err)
		}
		errs, o.Modes = append(errs, err), []config.Mode{mode}
	}
	if f.output != "text" && f.output != "json" {
		errs = append(errs, fmt.Errorf("--output: %q is not a format; give text or json", f.output))
	}
	if f.metrics != "" {
		var err error
		if o.Metrics, err = netip.ParseAddrPort(f.metrics); err != nil {
			errs = append(errs, fmt.Errorf("--metrics-address: %q is not an address with a port; give one such as 127.0.0.1:10249", f.metrics))
		}
	}
	if f.file != "" {
		var err error
		o.Data, err = os.ReadFile(f.file)
		errs = append(errs, err)
	}
	return mode, o, errors.Join(errs...)
}
