package lab

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"turnout/proxy"
)

// LoadOptions say how many connections Load makes.
type LoadOptions struct {
	// Parallel is the number of clients that connect at the same time; 0 is 4.
	Parallel int
	// Attempts is the number of connections after which Load ends; 0 is 10,000.
	Attempts int
	// Timeout is how long to wait for each answer; 0 is DefaultTimeout.
	Timeout time.Duration
	// Source is the address of the clients; the kernel's choice if it is not valid.
	Source netip.Addr
	// Interval is the least time from one connection of a client to its next; 0 is none: as fast as it answers.
	Interval time.Duration

	each func(Outcome) // is told of every attempt; may be nil
}

// LoadReport counts what came of the connections.
type LoadReport struct {
	OK, Failed int
	// Servers counts the connections by the name of the server that answered, Seen by the source address that it saw.
	Servers map[string]int
	Seen    map[netip.Addr]int
	// Errors are the first few attempts that failed.
	Errors []Outcome
	// Took is the time from the first attempt to the end of the last.
	Took time.Duration
}

// maxErrors is how many failures a report describes.
const maxErrors = 5

// String returns one line, such as "500 ok, 0 failed: pod-1 251, pod-2 249", and when and how each of the Errors came.
func (r LoadReport) String() string {
	var servers []string
	for _, name := range slices.Sorted(maps.Keys(r.Servers)) {
		servers = append(servers, fmt.Sprintf("%s %d", name, r.Servers[name]))
	}
	parts := []string{fmt.Sprintf("%d ok, %d failed: %s", r.OK, r.Failed, strings.Join(servers, ", "))}
	for _, e := range r.Errors {
		parts = append(parts, fmt.Sprintf("%s at %s after %v: %v", e, e.Ended.Format("15:04:05.000"), e.Took.Round(time.Millisecond), e.Err))
	}
	return strings.Join(parts, "; ")
}

// Load connects to a server of the lab again and again, as fast as it answers or as often as the options say, until the number of attempts is reached or
// the context ends.
func (h *Host) Load(ctx context.Context, protocol proxy.Protocol, to netip.AddrPort, o LoadOptions) LoadReport {
	if o.Parallel == 0 {
		o.Parallel = 4
	}
	if o.Attempts == 0 {
		o.Attempts = 10000
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	start := time.Now()
	r := LoadReport{Servers: map[string]int{}, Seen: map[netip.Addr]int{}}
	var mu sync.Mutex // guards r
	var started atomic.Int64
	var clients sync.WaitGroup
	for range o.Parallel {
		clients.Go(func() {
			err := h.Do(func() error {
				for ctx.Err() == nil && started.Add(1) <= int64(o.Attempts) {
					began := time.Now()
					out := dial(protocol, to, DialOptions{Timeout: o.Timeout, Source: netip.AddrPortFrom(o.Source, 0)})
					if o.each != nil {
						o.each(out)
					}
					mu.Lock()
					r.add(out)
					mu.Unlock()
					if o.Interval > 0 {
						time.Sleep(o.Interval - time.Since(began))
					}
				}
				return nil
			})
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				r.add(Outcome{Result: Failed, Err: err})
			}
		})
	}
	clients.Wait()
	r.Took = time.Since(start)
	return r
}

func (r *LoadReport) add(o Outcome) {
	if o.Result == Connected {
		r.OK++
		r.Servers[o.Server]++
		r.Seen[o.SeenSource]++
		return
	}
	r.Failed++
	if len(r.Errors) < maxErrors {
		r.Errors = append(r.Errors, o)
	}
}
