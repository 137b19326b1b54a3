package cases

import (
	"flag"
	"strings"
	"testing"

	"turnout/proxy"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestStates(t *testing.T) {
	for _, c := range All(t) {
		t.Run(c.Name, func(t *testing.T) {
			var b strings.Builder
			for _, n := range c.Notes {
				b.WriteString("# " + n + "\n")
			}
			for _, s := range c.States {
				if err := proxy.WriteText(&b, s); err != nil {
					t.Fatal(err)
				}
			}
			c.Golden(t, States, b.String(), *update)
		})
	}
}
