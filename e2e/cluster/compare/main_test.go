package compare

import (
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"

	"turnout/e2e/cluster/compare/beside"
	"turnout/proxy/proxytest"
)

var (
	turnoutFlag  = flag.String("binary", "", "the turnout binary to test; bin/turnout of the repository if empty")
	upstreamFlag = flag.String("kube-proxy", "", "the kube-proxy binary to compare with; the one beside the control plane's programs if empty")
	binariesFlag = flag.String("binaries", "", "the folder with the control plane's programs; where hack/e2e.sh builds them if empty")
	randomCases  = flag.Int("random.cases", 120, "random Services that TestRandom sends packets to, for each configuration")
	randomSeed   = flag.Uint64("random.seed", 0, "first random number of TestRandom; another one each time if 0")
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(proxytest.Main(tests{m}))
}

// tests runs in the process that may make namespaces, which is not always the one that go test started.
type tests struct{ *testing.M }

func (m tests) Run() int {
	code := m.M.Run()
	if shared.cluster == nil {
		return code
	}
	if err := shared.cluster.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// find returns the proxies, or says what is missing.
var find = sync.OnceValues(func() (beside.Programs, error) {
	return beside.Programs{Turnout: *turnoutFlag, KubeProxy: *upstreamFlag}.Find(*binariesFlag)
})

// binaries returns the two proxies, or skips the test with the reason why one of them is not there.
func binaries(t *testing.T) beside.Programs {
	t.Helper()
	p, err := find()
	if err != nil {
		t.Skipf("nothing to compare: %v", err)
	}
	return p
}

// shared is the control plane of all tests, which is started by the first.
var shared struct {
	once    sync.Once
	cluster *beside.Cluster
	err     error
}

// newCluster returns the control plane, without any objects of other tests, or skips the test.
func newCluster(t *testing.T) *beside.Cluster {
	t.Helper()
	if err := proxytest.Privileged(); err != nil {
		t.Skipf("needs network namespaces: %v", err)
	}
	binaries(t)
	shared.once.Do(func() { shared.cluster, shared.err = beside.New(*binariesFlag) })
	if shared.err != nil {
		t.Fatalf("start the control plane: %v", shared.err)
	}
	if err := shared.cluster.Clear(t.Context()); err != nil {
		t.Fatal(err)
	}
	return shared.cluster
}
