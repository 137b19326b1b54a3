package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"turnout/proxy/config"
)

// convertFlags are the flags of `turnout config convert`.
type convertFlags struct{ file, from, to, output string }

// newConfigConvertCommand returns `turnout config convert`.
func newConfigConvertCommand() *cobra.Command {
	var f convertFlags
	cmd := &cobra.Command{
		Use:   "convert -f FILE --to MODE [--from MODE] [-o FILE]",
		Short: "Translate a configuration file for another mode",
		Long: `Convert writes a KubeProxyConfiguration for another mode. What was in effect stays in effect: settings that each mode has in a
section of its own move there, and nodePortAddresses is written out where the modes differ in what an empty list means. What
the other mode does not have, and what has no effect, is left out. The standard error names all of it.

Comments are not kept. Fields that the file does not set are not added.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVarP(&f.file, "file", "f", "", "The configuration file; - is the standard input.")
	cmd.Flags().StringVar(&f.to, "to", "", "The mode to translate for: nftables, iptables or ipvs.")
	cmd.Flags().StringVar(&f.from, "from", "", "Read the file as one of this mode, instead of the mode that it names; iptables if it names none.")
	cmd.Flags().StringVarP(&f.output, "output", "o", "", "The file to write; the standard output if empty.")
	return cmd
}

func (f *convertFlags) run(in io.Reader, out, diagnostics io.Writer) error {
	to, toErr := parseMode("to", f.to, false)
	from, fromErr := parseMode("from", f.from, true)
	data, readErr := readFile(f.file, in)
	if err := errors.Join(toErr, fromErr, readErr); err != nil {
		return err
	}
	c, err := config.Convert(data, from, to)
	if err != nil {
		return fmt.Errorf("%s: %w", f.file, err)
	}
	fmt.Fprintf(diagnostics, "%s: from mode %s to mode %s\n", f.file, c.From, to)
	for _, w := range c.Changes {
		fmt.Fprintf(diagnostics, "changed: %v\n", w)
	}
	for _, w := range c.Losses {
		fmt.Fprintf(diagnostics, "not translated: %v\n", w)
	}
	if f.output == "" {
		_, err = out.Write(c.File)
	} else {
		err = os.WriteFile(f.output, c.File, 0o644)
	}
	if err != nil {
		return fmt.Errorf("write the converted configuration: %w", err)
	}
	return nil
}
