package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"turnout/proxy/config"
)

// checkFlags are the flags of `turnout config check`.
type checkFlags struct {
	file, mode, output string
	strict             bool
}

// newConfigCheckCommand returns `turnout config check`.
func newConfigCheckCommand() *cobra.Command {
	var f checkFlags
	cmd := &cobra.Command{
		Use:   "check -f FILE [--mode MODE]",
		Short: "Say what is wrong with a configuration file, and what has no effect",
		Long: `Check reads a KubeProxyConfiguration as the proxy does when it starts, and prints

  errors    which keep the proxy from starting,
  warnings  about fields without effect and likely mistakes, as the proxy logs them, and
  notes     on what a change of the mode brings, and on fields without effect that nothing is lost by.

The exit status is 1 if there are errors, or with --strict if there are warnings.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVarP(&f.file, "file", "f", "", "The configuration file; - is the standard input.")
	cmd.Flags().StringVar(&f.mode, "mode", "", "Check for this mode instead of the one in the file: nftables, iptables or ipvs.")
	cmd.Flags().BoolVar(&f.strict, "strict", false, "Fail if there are warnings.")
	cmd.Flags().StringVarP(&f.output, "output", "o", "text", "Format of the output: text or json.")
	return cmd
}

func (f *checkFlags) run(in io.Reader, out io.Writer) error {
	mode, modeErr := parseMode("mode", f.mode, true)
	var outputErr error
	if f.output != "text" && f.output != "json" {
		outputErr = fmt.Errorf("--output: %q is not a format; give text or json", f.output)
	}
	data, readErr := readFile(f.file, in)
	if err := errors.Join(modeErr, outputErr, readErr); err != nil {
		return err
	}
	r := config.Check(data, mode)
	failed := len(r.Problems) > 0 || f.strict && len(r.Warnings) > 0
	write := writeReport
	if f.output == "json" {
		write = writeReportJSON
	}
	if err := write(out, f.file, &r, !failed); err != nil {
		return err
	}
	if failed {
		return exitError{1, nil}
	}
	return nil
}

func writeReport(out io.Writer, file string, r *config.Report, _ bool) error {
	for _, p := range r.Problems {
		fmt.Fprintf(out, "error: %v\n", p)
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(out, "warning: %v\n", w)
	}
	for _, w := range r.Notes {
		fmt.Fprintf(out, "note: %v\n", w)
	}
	_, err := fmt.Fprintf(out, "%s: %s\n", file, r.Summary())
	return err
}

// checkOutput is the output in JSON.
type checkOutput struct {
	File string `json:"file"`
	// Mode is what the file was checked for, ModeInFile what it says, "" for nothing.
	Mode       config.Mode `json:"mode"`
	ModeInFile config.Mode `json:"modeInFile"`
	// OK tells that the exit status is 0.
	OK       bool           `json:"ok"`
	Errors   []checkFinding `json:"errors"`
	Warnings []checkFinding `json:"warnings"`
	Notes    []checkFinding `json:"notes"`
}

// checkFinding is an error, a warning or a note.
type checkFinding struct {
	Field   string `json:"field,omitempty"` // path of the field; none if it is about the whole file
	Value   string `json:"value,omitempty"`
	Message string `json:"message"`
	Instead string `json:"instead,omitempty"` // path of the field to set instead
}

func writeReportJSON(out io.Writer, file string, r *config.Report, ok bool) error {
	o := checkOutput{File: file, Mode: r.Mode, ModeInFile: r.Said, OK: ok, Errors: []checkFinding{}, Warnings: findings(r.Warnings), Notes: findings(r.Notes)}
	for _, p := range r.Problems {
		o.Errors = append(o.Errors, checkFinding{Field: p.Where, Message: p.Error()})
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(o)
}

func findings(ws config.Warnings) []checkFinding {
	list := make([]checkFinding, len(ws))
	for i, w := range ws {
		list[i] = checkFinding{Field: w.Where, Value: w.Value, Message: w.Text, Instead: w.Instead}
	}
	return list
}
