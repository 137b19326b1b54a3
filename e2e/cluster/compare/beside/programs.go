package beside

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"turnout/e2e/cluster/plane"
)

// Programs are the proxies that are tested beside each other.
type Programs struct{ Turnout, KubeProxy string }

// Find completes the files of programs: what is "" is taken from where the scripts in hack build it, given the folder of the control
// plane's programs or "" for the usual one. It fails if one is not there, or if nft is not, which kube-proxy needs.
func (p Programs) Find(binaries string) (Programs, error) {
	if binaries == "" {
		var err error
		if binaries, err = plane.Binaries(); err != nil {
			return p, err
		}
	}
	if p.KubeProxy == "" {
		p.KubeProxy = filepath.Join(binaries, "kube-proxy")
	}
	if p.Turnout == "" {
		p.Turnout = filepath.Join(binaries, "..", "turnout")
	}
	for _, name := range []*string{&p.Turnout, &p.KubeProxy} {
		absolute, err := filepath.Abs(*name)
		if err != nil {
			return p, err
		}
		if _, err := os.Stat(absolute); err != nil {
			return p, fmt.Errorf("%w: hack/e2e-compare.sh builds it", err)
		}
		*name = absolute
	}
	if _, err := exec.LookPath("nft"); err != nil {
		return p, fmt.Errorf("kube-proxy's mode nftables needs nft: %w", err)
	}
	return p, nil
}
