package e2e

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"turnout/proxy/proxytest"
)

// binaryFlag lets a released binary be tested instead of one built from this tree.
var binaryFlag = flag.String("binary", "", "the turnout binary to test; built from this module if empty")

func TestMain(m *testing.M) {
	if os.Args[0] == withoutNftables {
		fmt.Fprintln(os.Stderr, becomeWithoutNftables(os.Args[1:]))
		os.Exit(1)
	}
	flag.Parse()
	patience, *hitlessFor = patience*time.Duration(*slow), *hitlessFor*time.Duration(*slow)
	if *trafficFlag {
		if err := flag.Set("test.run", "^("+trafficTests+")$"); err != nil {
			panic(err)
		}
	}
	os.Exit(proxytest.Main(tests{m}))
}

// tests runs in the process that may make namespaces, which is not always the one that go test started.
type tests struct{ *testing.M }

func (m tests) Run() int {
	dir, err := os.MkdirTemp("", "turnout-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	buildDir = dir
	return m.M.Run()
}
