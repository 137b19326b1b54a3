package iptables

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"testing"

	"turnout/proxy"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/cases"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) { os.Exit(proxytest.Main(m)) }

// The input of iptables-restore, for each case and family.
func TestGolden(t *testing.T) {
	cases.Goldens(t, "iptables", *update, func(w io.Writer, s *proxy.State) error {
		_, err := fmt.Fprintf(w, "# %s\n", s.Family)
		return errors.Join(err, WriteText(w, Options{}, s))
	})
}
