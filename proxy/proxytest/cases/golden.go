package cases

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"golang.org/x/tools/txtar"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// Goldens compares, for each case, what a backend makes of its States, one family after the other, with the file of that name. With update it rewrites
// the files instead: see Case.Golden.
func Goldens(t *testing.T, name string, update bool, write func(io.Writer, *proxy.State) error) {
	t.Helper()
	for _, c := range All(t) {
		t.Run(c.Name, func(t *testing.T) {
			var b strings.Builder
			for _, s := range c.States {
				if err := write(&b, s); err != nil {
					t.Fatal(err)
				}
			}
			c.Golden(t, name, b.String(), update)
		})
	}
}

// Golden compares a text with the named file of the case. With update it writes the text into the case's archive instead; the
// tests of several packages may do that at the same time.
func (c *Case) Golden(t interface {
	proxytest.T
	Errorf(format string, args ...any)
}, name, got string, update bool) {
	t.Helper()
	if update {
		if err := c.update(name, got); err != nil {
			t.Fatalf("update case %s: %v", c.Name, err)
		}
		return
	}
	if diff := cmp.Diff(c.Text(name), got); diff != "" {
		t.Errorf("%s of case %s (run with -update if this is as it should be): -want +got:\n%s", name, c.Name, diff)
	}
}

func (c *Case) update(name, got string) (err error) {
	folder, err := sourceFolder()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(folder, c.Name+".txtar"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }() // which also unlocks it
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	a := txtar.Parse(data)
	if text(a, name) == got {
		return nil
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(txtar.Format(with(a, name, got)), 0)
	return err
}

// with returns an archive in which a file has another content; a new file comes last.
func with(a *txtar.Archive, name, data string) *txtar.Archive {
	for i := range a.Files {
		if a.Files[i].Name == name {
			a.Files[i].Data = []byte(data)
			return a
		}
	}
	a.Files = append(a.Files, txtar.File{Name: name, Data: []byte(data)})
	return a
}

// sourceFolder finds testdata in the module that the working directory belongs to.
func sourceFolder() (string, error) {
	d, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return filepath.Join(d, "proxy", "proxytest", "cases", "testdata"), nil
		}
		if d == filepath.Dir(d) {
			return "", errors.New("the working directory is not in the module's source")
		}
		d = filepath.Dir(d)
	}
}
