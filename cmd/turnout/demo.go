package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"turnout/cmd/turnout/demo"
)

// newDemoCommand returns `turnout demo`.
func newDemoCommand() *cobra.Command {
	var verbose bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the proxy at work in network namespaces of its own",
		Long: `Demo builds two nodes with pods and an outside client from network namespaces, runs the proxy on one of the nodes and makes real
connections through it. Every line tells what was seen and whether it is as it should be; if anything is not, the exit code
is 1. It needs root, or a kernel that lets everybody make user namespaces; nothing outside of its namespaces is touched, and
nothing stays behind.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			code, err := demo.Prepare()
			if err != nil {
				return fmt.Errorf("demo: cannot make network namespaces: %w", err)
			}
			if code >= 0 { // it ran in a user namespace, and has said all there is to say
				os.Exit(code)
			}
			executable, err := os.Executable()
			if err != nil {
				return fmt.Errorf("demo: find this program's file: %w", err)
			}
			out := cmd.OutOrStdout()
			err = demo.Run(cmd.Context(), demo.Options{Executable: executable, Out: out, Terminal: isTerminal(out), Verbose: verbose})
			if err != nil {
				return fmt.Errorf("demo: %w", err)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&verbose, "verbose", false, "Show the proxy's log as it comes.")
	return cmd
}

// isTerminal tells that a writer is a terminal whose user did not ask for plain text (no-color.org).
func isTerminal(out any) bool {
	f, ok := out.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
