package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// TestAuto lets the proxy choose the mode: nftables here, and iptables on a node whose kernel has no nftables. What was chosen and why is told.
func TestAuto(t *testing.T) {
	t.Parallel()
	needSwitchable(t)
	c, web := oneService(t)
	works := func(when string) {
		t.Helper()
		c.probe(t, c.bothFamilies(when, c.from(localPod), c.of(web, proxy.ClusterIP), kept("pod-2"))...)
	}
	p := c.start("--proxy-mode=auto")
	p.inMode("nftables", "auto")
	p.logged("Node event", "ProxyModeChosen", "mode nftables (auto)")
	works("with nftables")
	p.stop()
	c.cleanUp()

	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{withoutNftables, path}, append(c.usualArgs(), "--proxy-mode=auto")...)
	p = c.run(cmd)
	p.follow()
	p.inMode("iptables", "auto_fallback")
	c.hasOnly("iptables-legacy")
	p.logged("Node event", "ProxyModeChosen", "mode iptables (auto_fallback); this node lacks what other modes need: mode nftables: ")
	works("without nftables")
}

// withoutNftables is the name by which this program takes nftables from itself and then becomes another program, which TestMain sees to.
const withoutNftables = "without-nftables"

// becomeWithoutNftables has the kernel refuse sockets for netfilter, as one without them does, and executes a command.
func becomeWithoutNftables(args []string) error {
	runtime.LockOSThread()
	const number, family, protocol = 0, 16, 32 // of the system call, and its first and third argument, in seccomp's data of a little-endian machine
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	unless := func(value uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: skip}
	}
	answer := func(value uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: value} }
	filter := []unix.SockFilter{
		load(number), unless(unix.SYS_SOCKET, 5),
		load(family), unless(unix.AF_NETLINK, 3),
		load(protocol), unless(unix.NETLINK_NETFILTER, 1),
		answer(unix.SECCOMP_RET_ERRNO | uint32(unix.EPROTONOSUPPORT)), answer(unix.SECCOMP_RET_ALLOW),
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up new privileges: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program))); errno != 0 {
		return fmt.Errorf("filter system calls: %w", errno)
	}
	return fmt.Errorf("execute %s: %w", args[0], syscall.Exec(args[0], args, os.Environ()))
}
