package leftovers

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/iptables"
	"turnout/proxy/underway"
)

// Legacy is what kube-proxy left in one family's tables of iptables-legacy, which are apart from those of nftables. They are read and written
// as the program iptables-legacy does it, so that it is not needed.
type Legacy struct {
	family proxy.Family
	scope  Scope
	tables []string // that have something of kube-proxy's
	gone   []Object
	kept   []Object
}

// FindLegacy looks for what is in scope. It needs CAP_NET_ADMIN.
func FindLegacy(s Scope, f proxy.Family) (*Legacy, error) {
	l := &Legacy{family: f, scope: s}
	tables, err := iptables.LegacyTables(f)
	if err != nil {
		return nil, err
	}
	for _, name := range tables {
		if !slices.Contains(iptablesTables, name) {
			continue
		}
		err := withSocket(f, func(fd int) error {
			t, err := readTable(fd, f, name)
			if err == nil {
				err = l.look(t)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read table %s of iptables-legacy for %s: %w", name, f, err)
		}
	}
	return l, nil
}

// look notes what of a table is in scope.
func (l *Legacy) look(t *xtable) error {
	entries, err := t.parse()
	if err != nil {
		return err
	}
	_, kept, gone, err := t.without(l.scope, false)
	if err != nil {
		return err
	}
	names := chains(entries)
	scope := l.scope.beside(names)
	for _, name := range names {
		o := Object{Family: l.family, Kind: "chain", Table: t.name, Name: name, Legacy: true}
		switch {
		case gone[name]:
			l.gone = append(l.gone, o)
		case scope.owns(t.name, name):
			l.kept = append(l.kept, o)
		}
	}
	if slices.Contains(kept, false) {
		l.tables = append(l.tables, t.name)
	}
	return nil
}

// Objects lists the chains that Remove removes, with the rules that lead to them.
func (l *Legacy) Objects() []Object { return l.gone }

// Kept lists the chains that stay because another program's chains lead to them.
func (l *Legacy) Kept() []Object { return l.kept }

// Remove removes what was found: first what translates new connections, and then the rest. Each table is replaced in one step, in which other programs' rules keep their bytes and their counters; limits
// and the like begin anew, as with every change by iptables-legacy. If other programs change the table meanwhile, it is tried again.
func (l *Legacy) Remove() error {
	if len(l.tables) == 0 {
		return nil
	}
	if unsafe.Sizeof(uintptr(0)) != 8 {
		return fmt.Errorf("the tables of iptables-legacy for %s: can be written on machines of 64 bits only; remove the chains with the program iptables-legacy", l.family)
	}
	unlock, err := lockXtables(xtablesLock, lockPatience)
	if err != nil {
		return fmt.Errorf("write the tables of iptables-legacy for %s: %w", l.family, err)
	}
	defer unlock()
	var errs []error
	for _, first := range []bool{true, false} {
		for _, name := range l.tables {
			err := withSocket(l.family, func(fd int) error { return l.removeFrom(fd, name, first) })
			if err != nil {
				errs = append(errs, fmt.Errorf("write table %s of iptables-legacy for %s: %w", name, l.family, err))
			}
		}
		if len(errs) > 0 {
			break
		}
		underway.Wait()
	}
	return errors.Join(errs...)
}

func (l *Legacy) removeFrom(fd int, name string, first bool) error {
	for attempt := 0; ; attempt++ {
		t, err := readTable(fd, l.family, name)
		if err != nil {
			return err
		}
		next, kept, _, err := t.without(l.scope, first)
		if err != nil {
			return err
		}
		if !slices.Contains(kept, false) {
			return nil
		}
		if err = replaceTable(fd, next, kept); !errors.Is(err, unix.EAGAIN) || attempt == attempts {
			return err
		}
	}
}

// attempts is how often a table is read again that others change meanwhile.
const attempts = 5

// xtablesLock is the file that all programs of iptables-legacy lock while they change a table, and lockPatience how long to wait for it: as kube-proxy
// has iptables wait.
const (
	xtablesLock  = "/run/xtables.lock"
	lockPatience = 5 * time.Second
)

// lockXtables takes the lock. Without it, what another program changes meanwhile could be lost: the kernel refuses what was made for another table
// only if that has another number of entries. Where the file cannot be had, as in a container without it, no other program shares it.
func lockXtables(path string, patience time.Duration) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return func() {}, nil
	}
	err = whileBusy(time.Now().Add(patience), unix.EWOULDBLOCK, func() error { return unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("another program has held %s for %v (fuser %s names it): %w", path, patience, path, err)
	}
	return func() { file.Close() }, nil
}

// Lengths and places in what the kernel takes and gives (include/uapi/linux/netfilter/x_tables.h, netfilter_ipv4/ip_tables.h,
// netfilter_ipv6/ip6_tables.h). Numbers of the options are the same for IPv6.
const (
	getInfo, getEntries     = 64, 65 // IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES
	setReplace, addCounters = 64, 65 // IPT_SO_SET_REPLACE, IPT_SO_SET_ADD_COUNTERS
	tableNameLen            = 32     // XT_TABLE_MAXNAMELEN
	infoLen                 = 84     // struct ipt_getinfo: name, hooks, 5 entries, 5 underflows, number, size
	entriesAt               = 40     // struct ipt_get_entries: name, size, then the entries, aligned to 8
	countersAt              = 40     // struct xt_counters_info: name, number, then the counters, aligned to 8
	counterLen              = 16     // struct xt_counters
	targetHeader            = 32     // struct xt_entry_target: u16 size, char name[29], u8 revision
	errorTarget             = "ERROR"
)

func withSocket(f proxy.Family, fn func(fd int) error) error {
	domain := unix.AF_INET
	if f == proxy.IPv6 {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	return fn(fd)
}

// readTable reads a table.
func readTable(fd int, f proxy.Family, name string) (*xtable, error) {
	for range attempts { // another process may make the table longer in between
		info := make([]byte, infoLen)
		copy(info[:tableNameLen-1], name)
		if err := sockopt(unix.SYS_GETSOCKOPT, fd, f, getInfo, info); err != nil {
			return nil, err
		}
		word := func(i int) uint32 { return binary.NativeEndian.Uint32(info[tableNameLen+4*i:]) }
		t := &xtable{name: name, family: f, hooks: word(0), number: word(11)}
		for h := range t.entry {
			t.entry[h], t.end[h] = word(1+h), word(6+h)
		}
		size := word(12)
		entries := make([]byte, entriesAt+size)
		copy(entries[:tableNameLen-1], name)
		binary.NativeEndian.PutUint32(entries[tableNameLen:], size)
		err := sockopt(unix.SYS_GETSOCKOPT, fd, f, getEntries, entries)
		if err == nil {
			t.blob = entries[entriesAt:]
			return t, nil
		}
		if !errors.Is(err, unix.EAGAIN) {
			return nil, err
		}
	}
	return nil, unix.EAGAIN
}

// replaceTable puts a table in the place of the one that it was made of, and gives the entries that were kept their counters back. The
// kernel refuses it with EAGAIN if the table has another number of entries by now.
func replaceTable(fd int, t *xtable, kept []bool) error {
	counters := make([]byte, counterLen*len(kept))
	b := make([]byte, tableNameLen, tableNameLen+64+len(t.blob))
	copy(b[:tableNameLen-1], t.name)
	words := append([]uint32{t.hooks, t.number, uint32(len(t.blob))}, t.entry[:]...)
	for _, w := range append(append(words, t.end[:]...), uint32(len(kept))) {
		b = binary.NativeEndian.AppendUint32(b, w)
	}
	// A pointer, aligned as it is there already on all machines with pointers of 8 bytes.
	b = binary.NativeEndian.AppendUint64(b, uint64(uintptr(unsafe.Pointer(&counters[0]))))
	b = append(b, t.blob...)
	err := sockopt(unix.SYS_SETSOCKOPT, fd, t.family, setReplace, b)
	runtime.KeepAlive(counters)
	if err != nil {
		return err
	}
	add := make([]byte, countersAt, countersAt+counterLen*int(t.number))
	copy(add[:tableNameLen-1], t.name)
	binary.NativeEndian.PutUint32(add[tableNameLen:], t.number)
	for i, k := range kept {
		if k {
			add = append(add, counters[counterLen*i:counterLen*(i+1)]...)
		}
	}
	return sockopt(unix.SYS_SETSOCKOPT, fd, t.family, addCounters, add)
}

// sockopt has the kernel read or write b.
func sockopt(call uintptr, fd int, f proxy.Family, option int, b []byte) error {
	level := unix.SOL_IP
	if f == proxy.IPv6 {
		level = unix.SOL_IPV6
	}
	n := uint32(len(b))
	last := uintptr(n)
	if call == unix.SYS_GETSOCKOPT {
		last = uintptr(unsafe.Pointer(&n))
	}
	_, _, errno := unix.Syscall6(call, uintptr(fd), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&b[0])), last, 0)
	runtime.KeepAlive(b)
	if errno != 0 {
		return errno
	}
	return nil
}

// text is a string that a zero ends.
func text(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}
