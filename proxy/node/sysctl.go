package node

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Sysctl reads and writes kernel settings. Names are paths below /proc/sys, such as "net/netfilter/nf_conntrack_max"; values
// are without the final newline. Errors are those of the file: fs.ErrNotExist if the kernel or the network namespace has no
// such setting, and those that ReadOnly recognises.
type Sysctl interface {
	Read(name string) (string, error)
	Write(name, value string) error
}

// ReadOnly tells whether a setting could not be written because this process may not: /proc/sys is mounted read-only, as in
// containers without privileges, or the setting belongs to the initial namespaces.
func ReadOnly(err error) bool {
	return errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)
}

// Proc is a proc file system, "/proc" or a copy of some of its files. It is the real Sysctl.
type Proc string

var _ Sysctl = Proc("")

// Read reads a setting.
func (p Proc) Read(name string) (string, error) { return p.read("sys/" + name) }

// Write writes a setting.
func (p Proc) Write(name, value string) error { return p.write("sys/"+name, value) }

// IPv6 tells whether the kernel has IPv6 and it is not switched off for all interfaces. Whether the node has an IPv6 address
// does not matter: it may get one later.
func (p Proc) IPv6() bool {
	if _, err := os.Stat(filepath.Join(string(p), "net/if_inet6")); err != nil {
		return false
	}
	off, err := p.Read("net/ipv6/conf/all/disable_ipv6")
	return err != nil || off != "1"
}

// SetOOMScoreAdj tells the kernel how readily to kill this process when memory runs out: -1000 (never) to 1000. To lower it
// needs CAP_SYS_RESOURCE; the proxy works without.
func (p Proc) SetOOMScoreAdj(score int) error {
	return p.write("self/oom_score_adj", strconv.Itoa(score))
}

func (p Proc) read(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(string(p), name))
	return strings.TrimRight(string(b), "\n"), err
}

// write does not create the file: a setting that the kernel does not have is an error.
func (p Proc) write(name, value string) error {
	f, err := os.OpenFile(filepath.Join(string(p), name), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value + "\n")
	return errors.Join(err, f.Close())
}
