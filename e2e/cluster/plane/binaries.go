package plane

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ErrMissing is the error of a control plane whose programs are not there.
var ErrMissing = errors.New("no control plane")

// programs are those of a control plane.
var programs = []string{"etcd", "kube-apiserver", "kube-controller-manager"}

// built is the folder, within the repository, that hack/e2e.sh builds them into.
const built = "bin/e2e"

// Binaries returns the folder with the programs that hack/e2e.sh built: bin/e2e in the folder of the repository, which is the working
// directory or above it.
func Binaries() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if folder := filepath.Join(dir, built); complete(folder) == nil {
			return folder, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%w: no %s with %v here or above: hack/e2e.sh builds them", ErrMissing, built, programs)
		}
	}
}

// find returns the folder to take programs from.
func (o Options) find() (string, error) {
	if o.Binaries != "" {
		return o.Binaries, complete(o.Binaries)
	}
	return Binaries()
}

func complete(folder string) error {
	var errs []error
	for _, name := range programs {
		_, err := os.Stat(filepath.Join(folder, name))
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", ErrMissing, err)
	}
	return nil
}
