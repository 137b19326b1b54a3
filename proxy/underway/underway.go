// Package underway knows when packets that are on their way through the kernel's hooks are through.
//
// What a packet was led to by a rule at one hook may be needed at the next, and a packet in the middle of a table's rules still follows them
// when others have taken their place. So what one change leads packets away from must stay until those that did not see the change are through.
// How long that is no clock tells: the processor of a virtual machine may stand still between any two instructions.
package underway

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// membarrierGlobal is MEMBARRIER_CMD_GLOBAL (include/uapi/linux/membarrier.h).
	membarrierGlobal = 1
	// Brief is longer than a packet takes from its first hook to its last, on a processor that does not stand still. It is what changes of single Services
	// wait, where only a new connection to one of them could be harmed.
	Brief = time.Millisecond
	// long is waited where the kernel cannot tell.
	long = 50 * time.Millisecond
)

// Wait returns when all packets are through that were in hooks when it was called. It takes some 10 ms, a grace period of the kernel: it receives a packet, or sends one of a
// socket, in one RCU read-side section (netif_receive_skb, ip_queue_xmit), and membarrier(2) waits for all that have begun. Where that is not possible, as on a
// kernel with nohz_full, it waits for 50 ms.
func Wait() {
	if barrier() {
		time.Sleep(Brief) // with one processor the kernel does not wait, but a process may be in the middle of sending
		return
	}
	time.Sleep(long)
}

// barrier waits for a grace period, and tells whether the kernel did that. A kernel that does not is not asked again.
func barrier() bool {
	possible.Do(func() {
		commands, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, 0, 0, 0) // MEMBARRIER_CMD_QUERY
		offered = errno == 0 && commands&membarrierGlobal != 0
	})
	if !offered {
		return false
	}
	_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0)
	return errno == 0
}

var (
	possible sync.Once
	offered  bool
)
