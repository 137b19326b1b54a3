package nftables

import (
	"errors"

	"turnout/proxy"
)

// classes gives each class a number, and remembers which chains were made for them.
type classes struct {
	numbers    map[string]uint32 // by name; never changed while a table lives
	known      map[class]uint32  // those that chains were made for
	made       map[string]bool   // chains of classes and pickers
	dispatched map[string]bool   // names of classes that the dispatch map leads to
	taken      map[uint32]bool   // numbers above next
	idle       map[string]uint32 // of classes that the kernel has a way to, though nothing leads to them
	next       uint32            // the lowest number that may be free
}

var errClasses = errors.New("more ways of treating frontends than the 4,095 that a table holds: too many different numbers of endpoints under policy Local")

// newClasses begins with the classes that the kernel has. Idle ones keep their number for one more generation, if there are enough.
func newClasses(numbers, idle map[string]uint32) *classes {
	if len(numbers)+len(idle) > maxClass/2 {
		idle = nil
	}
	c := &classes{numbers: map[string]uint32{}, known: map[class]uint32{}, made: map[string]bool{}, dispatched: map[string]bool{}, taken: map[uint32]bool{}, idle: idle, next: 1}
	for name, v := range numbers {
		c.numbers[name] = v
		c.taken[v] = true
	}
	for _, v := range idle {
		c.taken[v] = true
	}
	return c
}

// assign numbers a class; isNew tells that its chain is still to be made.
func (c *classes) assign(x class) (v uint32, isNew bool, err error) {
	if v, ok := c.known[x]; ok {
		return v, false, nil
	}
	name := x.name()
	v, ok := c.numbers[name]
	if !ok {
		if v, ok = c.idle[name]; ok {
			c.numbers[name] = v
		}
	}
	if !ok {
		for c.taken[c.next] {
			delete(c.taken, c.next)
			c.next++
		}
		if v = c.next; v > maxClass {
			return 0, false, errClasses
		}
		c.next++
		c.numbers[name] = v
	}
	c.known[x] = v
	return v, true, nil
}

// room tells that there are numbers for so many more classes. Numbers of classes that are no longer in use come free with a rebuild
// only: packets may still be under way with them.
func (c *classes) room(more int) bool { return int(c.next)+len(c.taken)+more <= maxClass+1 }

// unknown adds the classes of a Service's frontends that have no chain yet.
func (c *classes) unknown(to map[class]bool, s *proxy.Service) {
	for i := range s.Frontends {
		x := classOf(s, &s.Frontends[i])
		if _, ok := c.known[x]; !ok {
			to[x] = true
		}
	}
}
