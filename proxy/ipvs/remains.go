package ipvs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"turnout/proxy"
	"turnout/proxy/ipvs/genl"
	"turnout/proxy/nftables"
)

// Loaded tells whether the kernel has IPVS, without having it loaded.
func Loaded() bool {
	_, err := os.Stat("/proc/thread-self/net/ip_vs")
	return !errors.Is(err, fs.ErrNotExist)
}

// Record reads what a Backend left in the kernel: the virtual servers that its table knows to be ours, whether they are still there or not, and whether there is
// such a table.
func Record(f proxy.Family) (servers map[genl.Key]bool, table bool, err error) {
	g, err := nftables.OpenGate(f)
	if err != nil {
		return nil, false, err
	}
	defer g.Close()
	if table, err = g.Exists(); err != nil || !table {
		return nil, false, err
	}
	servers, err = recorded(g)
	return servers, table, err
}

// Remains tells whether there is anything of a proxy of mode ipvs, for a family: the interface, which families share, or our table.
func Remains(f proxy.Family) (bool, error) {
	d, err := openDevice(f)
	if err != nil {
		return false, err
	}
	defer d.Close()
	l, err := d.link()
	if err != nil {
		return false, fmt.Errorf("look for what mode ipvs left: %w", err)
	}
	if l != nil {
		return true, nil
	}
	_, table, err := Record(f)
	return table, err
}
