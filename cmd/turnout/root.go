package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"
	cliflag "k8s.io/component-base/cli/flag"
	logsapi "k8s.io/component-base/logs/api/v1"
	metricsfeatures "k8s.io/component-base/metrics/features"
	"k8s.io/klog/v2"

	"turnout/proxy/config"
)

// proxyFunc runs the proxy until the context ends.
type proxyFunc func(ctx context.Context, cfg *config.Config) error

// newRootCommand returns the proxy command with all subcommands. It hands over to proxy once flags and logging are settled.
func newRootCommand(proxy proxyFunc) *cobra.Command {
	flags := config.NewFlags()
	root := &cobra.Command{
		Use:   "turnout",
		Short: "Kubernetes service proxy",
		Long: `Turnout is a Kubernetes service proxy that takes kube-proxy's place, with the same flags and configuration file. Run without a
command it has the node's kernel lead connections to Services to their endpoints, until it is told to stop. The rules stay in force
when it ends; turnout cleanup removes them.`,
		Args:               cobra.ArbitraryArgs,
		DisableFlagParsing: true, // config.Flags tells all problems at once
		SilenceErrors:      true,
		SilenceUsage:       true,
		CompletionOptions:  cobra.CompletionOptions{DisableDefaultCmd: true},
		RunE: func(cmd *cobra.Command, args []string) error {
			flags.Parse(args)
			return runRoot(cmd, flags, proxy)
		},
	}
	root.SetGlobalNormalizationFunc(cliflag.WordSepNormalizeFunc)
	root.Flags().AddFlagSet(flags.FlagSet())
	root.Flags().SortFlags = false
	root.AddCommand(newVersionCommand(), newRenderCommand(), newConfigCommand(), newDemoCommand(), newCleanupCommand(), newPreflightCommand())
	return root
}

// runRoot does what the flags ask for.
func runRoot(cmd *cobra.Command, flags *config.Flags, proxy proxyFunc) error {
	if flags.Help() {
		return cmd.Help()
	}
	if kind := flags.Version(); kind != "" {
		return printVersion(cmd.OutOrStdout(), kind)
	}
	cfg, err := flags.Config(os.ReadFile)
	if err != nil {
		return err
	}
	if err := logsapi.ValidateAndApply(cfg.Logging, cfg.Gates); err != nil {
		return fmt.Errorf("set up logging: %w", err)
	}
	metricsfeatures.ApplyFeatureGates(cfg.Gates)
	ctx := cmd.Context()
	warn(ctx, nil, cfg.Warnings)
	if cfg.WriteConfigTo != "" {
		return writeConfig(cfg)
	}
	return ignoreCancel(ctx, proxy(ctx, cfg))
}

// warn logs warnings that were not told before.
func warn(ctx context.Context, told, warnings config.Warnings) {
	for _, w := range warnings {
		if !slices.Contains(told, w) {
			klog.FromContext(ctx).Info("Configuration warning", "field", w.Where, "warning", w.Text)
		}
	}
}

// ignoreCancel drops the error that only says that the context was ended: that is how the process is told to stop.
func ignoreCancel(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func writeConfig(cfg *config.Config) error {
	raw, err := cfg.YAML()
	if err != nil {
		return err
	}
	if err := os.WriteFile(cfg.WriteConfigTo, raw, 0o644); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}
