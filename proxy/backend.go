package proxy

import "context"

// Backend is a packet-engine implementation: it makes the kernel do what a State says. One instance serves one family, and
// is used by one goroutine.
type Backend interface {
	// Apply makes the kernel follow the State. It is idempotent: only what differs from the last successful Apply is sent, in
	// a way that is atomic for packets. On an error the kernel follows the previous State, or this one if only what is done after it failed, such as
	// forgetting clients of an endpoint that went; the caller may simply try again.
	// A Service that the kernel refuses is left out and named in the Report, and tried again by later Applies.
	Apply(ctx context.Context, s *State) (Report, error)
	// Forget drops what is believed of the kernel, so that the next Apply rebuilds everything of ours, atomically.
	Forget()
	// Cleanup removes everything of ours from the kernel. It needs no earlier Apply.
	Cleanup(ctx context.Context) error
}

// Report tells what an Apply did.
type Report struct {
	// Full tells that everything was rebuilt rather than only what changed.
	Full bool
	// Operations is the number of kernel objects and elements written or deleted.
	Operations int
	// Forgotten is the number of clients with session affinity that were forgotten because their endpoint went.
	Forgotten int
	// Rejected are the Services that are not programmed.
	Rejected []Rejection
	// Tables are the kernel's tables that have rules of ours; nil if the Backend has none whose rules grow with the Services.
	Tables []Table
	// Failures is also there if Apply returns an error.
	Failures Failures
}

// Table tells of one of the kernel's tables.
type Table struct {
	Name string
	// Rules is the number of ours in it, and Written how many of them the last Apply wrote that wrote any to any table.
	Rules, Written int
}

// Failures counts what was written and not taken, whether or not something else was in its place.
type Failures struct {
	// All are all of them, and Changes those with only what changed, after which everything is rebuilt.
	All, Changes int
}

// PacketCounts are numbers of packets that rules have counted in the kernel.
type PacketCounts struct {
	// InvalidDropped were not forwarded since connection tracking cannot place them.
	InvalidDropped uint64
	// LocalhostAccepted were the first of connections to NodePorts on loopback addresses.
	LocalhostAccepted uint64
}

// Rejection names a Service that could not be programmed, and why.
type Rejection struct {
	Name ServicePortName
	Err  error
}
