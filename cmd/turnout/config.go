package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"turnout/proxy/config"
)

// newConfigCommand returns `turnout config`.
func newConfigCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check configuration files, and bring them to another mode",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("config %s: there is no such command; see turnout config --help", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newConfigCheckCommand(), newConfigConvertCommand())
	return cmd
}

// noArguments refuses arguments that are not flags.
func noArguments(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%q is not a flag; give the file with -f", args[0])
	}
	return nil
}

// readFile reads a file, or the input if its name is "-".
func readFile(name string, input io.Reader) ([]byte, error) {
	switch name {
	case "":
		return nil, errors.New("-f is missing: give the configuration file, or - for the standard input")
	case "-":
		data, err := io.ReadAll(input)
		if err != nil {
			return nil, fmt.Errorf("read the standard input: %w", err)
		}
		return data, nil
	}
	return os.ReadFile(name)
}

// parseMode reads the value of a flag; "" is allowed if the flag is optional.
func parseMode(flag, value string, optional bool) (config.Mode, error) {
	if value == "" && optional {
		return "", nil
	}
	m, err := config.ParseMode(value)
	if err != nil {
		return "", fmt.Errorf("--%s: %w", flag, err)
	}
	return m, nil
}
