package iptables

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lockFile is the lock of iptables-legacy (iptables(8), XTABLES_LOCKFILE).
func lockFile() string {
	if name := os.Getenv("XTABLES_LOCKFILE"); name != "" {
		return name
	}
	return "/run/xtables.lock"
}

// lockHolder names the processes that hold the lock, such as "process 1234 (firewalld)"; "" if that cannot be seen, as from a container that does not share
// the node's processes.
func lockHolder() string {
	var file unix.Stat_t
	if unix.Stat(lockFile(), &file) != nil {
		return ""
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return ""
	}
	var names []string
	for _, pid := range holders(string(locks), &file) {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			comm = []byte("ended meanwhile")
		}
		names = append(names, fmt.Sprintf("process %d (%s)", pid, bytes.TrimSpace(comm)))
	}
	return strings.Join(names, ", ")
}

// holders are the processes that hold a lock on a file, of a list as /proc/locks has it (proc_locks(5)): number, FLOCK, ADVISORY, WRITE, process,
// major:minor:inode, range. Those that wait for a lock have an arrow behind the number.
func holders(locks string, file *unix.Stat_t) (out []int) {
	where := fmt.Sprintf("%02x:%02x:%d", unix.Major(file.Dev), unix.Minor(file.Dev), file.Ino)
	for l := range strings.Lines(locks) {
		words := strings.Fields(l)
		if len(words) < 6 || words[1] == "->" || words[5] != where {
			continue
		}
		if pid, err := strconv.Atoi(words[4]); err == nil && pid > 0 {
			out = append(out, pid)
		}
	}
	return out
}
