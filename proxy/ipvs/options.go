package ipvs

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"turnout/proxy"
	"turnout/proxy/ipvs/genl"
)

// Options configure a Backend.
type Options struct {
	Family proxy.Family
	// Scheduler is the name of the scheduler of all virtual servers; rr if empty.
	Scheduler string
	// StrictARP keeps the node from answering ARP requests for addresses of Services, as load balancers that announce these need it.
	StrictARP bool
	// Exclude are prefixes whose virtual servers are never deleted, not even those that look like ours.
	Exclude []netip.Prefix
	// Timeouts of silent connections; those that are 0 stay as they are.
	Timeouts genl.Timeouts
	// Sysctl reads and writes kernel settings.
	Sysctl Sysctl
	// RetryRejected is how long a Service that the kernel refused is left alone before it is tried again; 30 s if 0.
	RetryRejected time.Duration
}

// Sysctl reads and writes kernel settings, by their paths below /proc/sys.
type Sysctl interface {
	Read(name string) (string, error)
	Write(name, value string) error
}

func (o *Options) setDefaults() {
	if o.Scheduler == "" {
		o.Scheduler = "rr"
	}
	if o.RetryRejected == 0 {
		o.RetryRejected = 30 * time.Second
	}
}

// excluded tells that a virtual server at an address is not to be deleted.
func (o *Options) excluded(a netip.Addr) bool {
	for _, p := range o.Exclude {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// A setting is a kernel setting that mode ipvs needs.
type setting struct{ name, value string }

// settings lists what must be set before virtual servers work. The module makes those below net/ipv4/vs when it is loaded; they hold for both families.
func (o *Options) settings() []setting {
	out := []setting{
		{"net/ipv4/vs/conntrack", "1"},                 // or nothing that IPVS forwards can be masqueraded
		{"net/ipv4/vs/expire_nodest_conn", "1"},        // or packets to a destination that went are lost until the connection times out
		{"net/ipv4/vs/expire_quiescent_template", "1"}, // or clients with affinity are sent on to a destination of weight 0
		{"net/ipv4/ip_forward", "1"},
	}
	if o.StrictARP {
		out = append(out, setting{"net/ipv4/conf/all/arp_ignore", "1"}, setting{"net/ipv4/conf/all/arp_announce", "2"})
	}
	return out
}

// setUp writes the settings that differ. What cannot be written is an error, all of it in one, unless it is already as it should be.
func (o *Options) setUp() error {
	var errs []error
	for _, s := range o.settings() {
		if is, err := o.Sysctl.Read(s.name); err == nil && is == s.value {
			continue
		}
		if err := o.Sysctl.Write(s.name, s.value); err != nil {
			errs = append(errs, fmt.Errorf("set sysctl %s to %s (set it on the node, or make /proc/sys writable): %w", s.name, s.value, err))
		}
	}
	return errors.Join(errs...)
}
