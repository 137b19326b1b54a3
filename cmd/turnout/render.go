package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"turnout/proxy"
	"turnout/proxy/config"
	"turnout/proxy/nftables"
	"turnout/proxy/node"
	"turnout/proxy/source"
	"turnout/proxy/source/dir"
	"turnout/proxy/sync"
)

// newRenderCommand returns `turnout render`.
func newRenderCommand() *cobra.Command {
	flags := config.NewFlags()
	cmd := &cobra.Command{
		Use:   "render --manifests DIR [proxy flags]",
		Short: "Print what would be programmed for a folder of manifests",
		Long: `Render reads a folder of manifests as the proxy would with the same flags, and prints, for each IP family, what each
address leads to and the nftables table that a node without one would be given. It needs neither privileges nor a kernel; what the manifests do not
say of the node (its addresses) is taken from its Node object.`,
		DisableFlagParsing:    true, // config.Flags tells all problems at once
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			flags.Parse(args)
			if flags.Help() {
				return cmd.Help()
			}
			cfg, err := flags.Config(os.ReadFile)
			if err != nil {
				return err
			}
			return render(cfg, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().AddFlagSet(flags.FlagSet())
	return cmd
}

func render(cfg *config.Config, out, diagnostics io.Writer) error {
	if cfg.Manifests == "" {
		return errors.New("--manifests is missing: give the folder whose manifests are to be rendered")
	}
	if cfg.Mode == config.Auto { // what is printed is the table of the first choice
		var err error
		if cfg, err = cfg.In(config.Modes[0]); err != nil {
			return err
		}
	}
	hostname, _ := os.Hostname() // Name says what is missing if there is neither this nor --hostname-override
	name, err := node.Name(cfg.HostnameOverride, hostname)
	if err != nil {
		return err
	}
	objects, problems, err := dir.Load(cfg.Manifests, name)
	if err != nil {
		return err
	}
	for _, p := range problems {
		fmt.Fprintf(diagnostics, "%v\n", p)
	}
	d := &daemon{cfg: cfg, nodeName: name, families: proxy.Families[:]}
	facts := d.factsConfig(cfg)
	facts.Local = func(proxy.Family) []netip.Addr { return nil }
	states, warnings, found := sync.Preview(sync.Options{NodeName: name, Families: d.families, Facts: facts}, func(s source.Sink) { objects.Deliver(s) })
	for _, w := range cfg.Warnings {
		fmt.Fprintf(diagnostics, "warning: %s\n", w)
	}
	for _, w := range warnings {
		fmt.Fprintf(diagnostics, "warning: %s\n", w)
	}
	for _, p := range found {
		fmt.Fprintf(diagnostics, "%v\n", p)
	}
	for i, s := range states {
		if i > 0 {
			fmt.Fprintln(out)
		}
		if err := proxy.WriteText(out, s); err != nil {
			return err
		}
		fmt.Fprintln(out)
		if err := nftables.WriteText(out, s); err != nil {
			return err
		}
	}
	return nil
}
