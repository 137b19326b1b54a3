package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/component-base/version"
)

// buildInfo is what is known of this build.
type buildInfo struct {
	Version    string `json:"version"`
	Commit     string `json:"commit,omitempty"`
	BuildDate  string `json:"buildDate,omitempty"`
	GoVersion  string `json:"goVersion"`
	Platform   string `json:"platform"`
	Kubernetes string `json:"kubernetes"` // minor version whose kube-proxy this build stands in for
}

// String returns one line.
func (b buildInfo) String() string {
	return fmt.Sprintf("Turnout %s (for Kubernetes v%s)", b.Version, b.Kubernetes)
}

// readBuildInfo prefers what the linker was told (-X k8s.io/component-base/version.gitVersion=...), and falls back to what
// the Go toolchain knows.
func readBuildInfo() buildInfo {
	linked := version.Get()
	b := buildInfo{
		Version:    linked.GitVersion,
		Commit:     linked.GitCommit,
		BuildDate:  linked.BuildDate,
		GoVersion:  linked.GoVersion,
		Platform:   linked.Platform,
		Kubernetes: version.DefaultKubeBinaryVersion,
	}
	if !strings.HasPrefix(linked.GitVersion, "v0.0.0-master") {
		return b
	}
	b.Version, b.Commit, b.BuildDate = "(devel)", "", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		b.fromToolchain(info)
	}
	return b
}

func (b *buildInfo) fromToolchain(info *debug.BuildInfo) {
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.BuildDate = s.Value
		}
	}
}

// printVersion writes one line, or with "raw" everything that is known.
func printVersion(w io.Writer, kind string) error {
	b := readBuildInfo()
	if kind == "raw" {
		return printJSON(w, b)
	}
	_, err := fmt.Fprintln(w, b)
	return err
}

func printJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

func newVersionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch output {
			case "text":
				return printVersion(cmd.OutOrStdout(), "true")
			case "json":
				return printVersion(cmd.OutOrStdout(), "raw")
			}
			return fmt.Errorf("--output: %q is not a format; give text or json", output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "Format: text or json.")
	return cmd
}
