package leftovers

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// FindLegacy lists the chains in scope in the tables of iptables-legacy, which are apart from those of nftables. They are only read
// here: the kernel takes such a table as a whole or not at all, and so to remove a chain is the business of the program iptables-legacy. It
// needs CAP_NET_ADMIN.
func FindLegacy(s Scope, f proxy.Family) ([]Object, error) {
	tables, err := legacyTables(f)
	if err != nil || len(tables) == 0 {
		return nil, err
	}
	domain := unix.AF_INET
	if f == proxy.IPv6 {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a socket for %s: %w", f, err)
	}
	defer unix.Close(fd)
	var out []Object
	for _, table := range tables {
		entries, err := readLegacy(fd, f, table)
		if err != nil {
			return nil, fmt.Errorf("read table %s of iptables-legacy for %s: %w", table, f, err)
		}
		for _, name := range legacyChains(entries, f) {
			if s.owns(table, name) {
				out = append(out, Object{Family: f, Kind: "chain", Table: table, Name: name, Legacy: true})
			}
		}
	}
	return out, nil
}

// legacyTables lists those tables of the namespace that kube-proxy may have written to. One that was never used is not there, and asking for
// it would make it.
func legacyTables(f proxy.Family) ([]string, error) {
	file := "/proc/thread-self/net/ip_tables_names"
	if f == proxy.IPv6 {
		file = "/proc/thread-self/net/ip6_tables_names"
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the kernel has no such tables
	}
	if err != nil {
		return nil, fmt.Errorf("list the tables of iptables-legacy: %w", err)
	}
	names := strings.Fields(string(text))
	return slices.DeleteFunc(names, func(n string) bool { return !slices.Contains(iptablesTables, n) }), nil
}

// Lengths and places in what the kernel tells (include/uapi/linux/netfilter/x_tables.h, netfilter_ipv4/ip_tables.h, netfilter_ipv6/ip6_tables.h).
const (
	getInfo, getEntries = 64, 65 // IPT_SO_GET_INFO and IPT_SO_GET_ENTRIES, the same for IPv6
	tableNameLen        = 32     // XT_TABLE_MAXNAMELEN
	infoLen             = 84     // struct ipt_getinfo, whose last field is the size of the entries
	entriesAt           = 40     // struct ipt_get_entries: name, size, then the entries, aligned to 8
	targetHeader        = 32     // struct xt_entry_target: u16 size, char name[29], u8 revision
	errorTarget         = "ERROR"
)

// readLegacy returns the entries of a table as the kernel keeps them.
func readLegacy(fd int, f proxy.Family, table string) ([]byte, error) {
	level := unix.SOL_IP
	if f == proxy.IPv6 {
		level = unix.SOL_IPV6
	}
	for range 5 { // another process may make the table longer in between
		info := make([]byte, infoLen)
		copy(info[:tableNameLen-1], table)
		if err := getsockopt(fd, level, getInfo, info); err != nil {
			return nil, err
		}
		size := binary.NativeEndian.Uint32(info[infoLen-4:])
		entries := make([]byte, entriesAt+size)
		copy(entries[:tableNameLen-1], table)
		binary.NativeEndian.PutUint32(entries[tableNameLen:], size)
		err := getsockopt(fd, level, getEntries, entries)
		if err == nil {
			return entries[entriesAt:], nil
		}
		if !errors.Is(err, unix.EAGAIN) {
			return nil, err
		}
	}
	return nil, unix.EAGAIN
}

// getsockopt has the kernel fill b, parts of which it reads.
func getsockopt(fd, level, option int, b []byte) error {
	n := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&n)), 0)
	runtime.KeepAlive(b)
	if errno != 0 {
		return errno
	}
	return nil
}

// legacyChains lists the chains of a table that are at no hook: each begins with an entry whose target is ERROR and has the chain's name.
func legacyChains(entries []byte, f proxy.Family) (out []string) {
	// struct ipt_entry and ip6t_entry: where the offsets of the target and of the next entry stand, as two u16.
	at := 88
	if f == proxy.IPv6 {
		at = 140
	}
	for len(entries) >= at+4 {
		target, next := int(binary.NativeEndian.Uint16(entries[at:])), int(binary.NativeEndian.Uint16(entries[at+2:]))
		if next <= target || next > len(entries) {
			return out
		}
		t := entries[target:next]
		if len(t) > targetHeader && text(t[2:targetHeader-1]) == errorTarget {
			if name := text(t[targetHeader:]); name != errorTarget { // which is the end of the table
				out = append(out, name)
			}
		}
		entries = entries[next:]
	}
	return out
}

// text is a string that a zero ends.
func text(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}
