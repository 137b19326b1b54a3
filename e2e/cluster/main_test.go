package cluster

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"turnout/e2e/cluster/plane"
	"turnout/proxy/proxytest"
)

var (
	binaryFlag   = flag.String("binary", "", "the turnout binary to test; bin/turnout of the repository if empty")
	binariesFlag = flag.String("binaries", "", "the folder with the control plane's programs; where hack/e2e.sh builds them if empty")
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(proxytest.Main(tests{m}))
}

// tests runs in the process that may make namespaces, which is not always the one that go test started.
type tests struct{ *testing.M }

func (m tests) Run() int {
	code := m.M.Run()
	if err := common.end(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// binary returns the program under test.
var binary = sync.OnceValues(func() (string, error) {
	path := *binaryFlag
	if path == "" {
		folder := *binariesFlag
		if folder == "" {
			var err error
			if folder, err = plane.Binaries(); err != nil {
				return "", err
			}
		}
		path = filepath.Join(folder, "..", "turnout")
	}
	path, err := filepath.Abs(path)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		return "", fmt.Errorf("%w: make e2e builds it", err)
	}
	return path, nil
})

// common is the cluster of all tests that leave its control plane, its nodes and its proxy alone.
var common sharedCluster

type sharedCluster struct {
	once sync.Once
	*cluster
	err error
}

// sharedScene returns a namespace of the common cluster for a test, which may run at the same time as others.
func sharedScene(t *testing.T) *scene {
	t.Helper()
	t.Parallel()
	if err := proxytest.Privileged(); err != nil {
		t.Skipf("needs network namespaces: %v", err)
	}
	common.once.Do(func() {
		common.cluster, common.err = newCluster()
		if common.err == nil {
			_, common.err = common.start(plane.NodeProxy)
		}
	})
	if errors.Is(common.err, plane.ErrMissing) {
		t.Skip(common.err)
	}
	if common.err != nil {
		t.Fatal(common.err)
	}
	return common.scene(t)
}

// end judges how the proxy of the common cluster ran, and removes everything.
func (s *sharedCluster) end() error {
	if s.cluster == nil {
		return nil
	}
	return errors.Join(s.judge(), s.close())
}
