package nftables

import (
	"errors"

	"turnout/proxy"
)

// numbers gives each Service a number for as long as it is programmed. A number that became free is used again as late as
// possible, and never in the transaction that freed it: a packet that found the old Service's number just before the transaction
// must not find the new Service's endpoints after it.
type numbers struct {
	of    map[proxy.ServicePortName]uint32
	next  uint32          // the lowest number never used
	free  []uint32        // oldest first
	freed []uint32        // by the transaction that is being prepared
	taken map[uint32]bool // above next, found in the kernel
}

var errNumbers = errors.New("more Services than the 524,287 that a table holds")

func newNumbers(expected int) *numbers {
	return &numbers{of: make(map[proxy.ServicePortName]uint32, expected), next: 1, taken: map[uint32]bool{}}
}

// adopt gives a Service the number that it had in the kernel, if that is still to be had.
func (n *numbers) adopt(name proxy.ServicePortName, v uint32) {
	if _, ok := n.of[name]; ok || v == 0 || n.taken[v] || v > maxNumber {
		return
	}
	n.of[name], n.taken[v] = v, true
}

// reserve keeps a number from being given to another Service for now.
func (n *numbers) reserve(v uint32) {
	if v > 0 && v <= maxNumber && !n.taken[v] {
		n.taken[v] = true
		n.freed = append(n.freed, v)
	}
}

// get returns the Service's number; a new one if it has none.
func (n *numbers) get(name proxy.ServicePortName) (uint32, error) {
	if v, ok := n.of[name]; ok {
		return v, nil
	}
	v, err := n.fresh()
	if err == nil {
		n.of[name] = v
	}
	return v, err
}

func (n *numbers) fresh() (uint32, error) {
	for n.next <= maxNumber {
		v := n.next
		n.next++
		if !n.taken[v] {
			return v, nil
		}
		delete(n.taken, v)
	}
	if len(n.free) == 0 {
		return 0, errNumbers
	}
	v := n.free[0]
	n.free = n.free[1:]
	return v, nil
}

// release frees the number of a Service that is no longer programmed.
func (n *numbers) release(name proxy.ServicePortName) {
	if v, ok := n.of[name]; ok {
		delete(n.of, name)
		n.freed = append(n.freed, v)
	}
}

// committed makes what the last transaction freed available to later ones.
func (n *numbers) committed() {
	n.free = append(n.free, n.freed...)
	n.freed = n.freed[:0]
}
