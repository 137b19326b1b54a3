package iptables

import (
	"flag"
	"os"
	"strings"
	"testing"

	"turnout/proxy"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/cases"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) { os.Exit(proxytest.Main(m)) }

// textOf is what a node that has nothing of ours is given for a State.
func textOf(t testing.TB, s *proxy.State) string {
	t.Helper()
	var b strings.Builder
	if err := WriteText(&b, Options{}, s); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// The input of iptables-restore, for each case and family.
func TestGolden(t *testing.T) {
	for _, c := range cases.All(t) {
		t.Run(c.Name, func(t *testing.T) {
			var b strings.Builder
			for _, s := range c.States {
				b.WriteString("# " + s.Family.String() + "\n" + textOf(t, s))
			}
			c.Golden(t, "iptables", b.String(), *update)
		})
	}
}
