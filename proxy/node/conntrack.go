package node

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"
)

// ConntrackConfig is how the kernel's connection tracking should be set. The zero value leaves it alone.
type ConntrackConfig struct {
	// MaxPerCore and Min give the number of flows that the kernel may track: MaxPerCore for each processor, but at least Min
	// in all. MaxPerCore 0 leaves the limit alone, whatever Min is.
	MaxPerCore, Min int
	// The timeouts are rounded up to seconds; 0 leaves one alone.
	TCPEstablished, TCPCloseWait, UDP, UDPStream time.Duration
	// TCPBeLiberal accepts packets outside of the TCP window; false leaves the setting alone.
	TCPBeLiberal bool
}

// maxFlows limits what the number of processors can make of the limit: machines with hundreds of them would otherwise get a
// table of several GB.
const maxFlows = 1 << 20

// Names of the settings, which the kernel describes in Documentation/networking/nf_conntrack-sysctl.rst. The buckets are
// the same as the parameter hashsize of the module.
const (
	sysctlMax            = "net/netfilter/nf_conntrack_max"
	sysctlBuckets        = "net/netfilter/nf_conntrack_buckets"
	sysctlTCPEstablished = "net/netfilter/nf_conntrack_tcp_timeout_established"
	sysctlTCPCloseWait   = "net/netfilter/nf_conntrack_tcp_timeout_close_wait"
	sysctlUDP            = "net/netfilter/nf_conntrack_udp_timeout"
	sysctlUDPStream      = "net/netfilter/nf_conntrack_udp_timeout_stream"
	sysctlTCPBeLiberal   = "net/netfilter/nf_conntrack_tcp_be_liberal"
)

// TCPLiberal tells that connection tracking accepts packets outside of the TCP window, whoever set that. It does not where the setting cannot be read: that is the
// kernel's default.
func TCPLiberal(s Sysctl) bool {
	v, err := s.Read(sysctlTCPBeLiberal)
	return err == nil && v != "0"
}

// Setting is a kernel setting and the value that it should have.
type Setting struct {
	Name  string // as for Sysctl
	Value int
}

// ConntrackPlan returns what must be written, in this order, given the number of processors and the present values by name.
// Settings that have their value already are left out: where /proc/sys is read-only, that is the way to have them set by
// somebody else. Those whose present value is not known are written, but for the size of the hash table, which is only
// ever enlarged, to one bucket for four flows.
func ConntrackPlan(c ConntrackConfig, processors int, present map[string]int) []Setting {
	wanted := []Setting{
		{sysctlTCPEstablished, seconds(c.TCPEstablished)},
		{sysctlTCPCloseWait, seconds(c.TCPCloseWait)},
		{sysctlUDP, seconds(c.UDP)},
		{sysctlUDPStream, seconds(c.UDPStream)},
	}
	if c.TCPBeLiberal {
		wanted = append(wanted, Setting{sysctlTCPBeLiberal, 1})
	}
	var plan []Setting
	if c.MaxPerCore > 0 {
		limit := min(max(c.MaxPerCore*processors, c.Min), maxFlows)
		wanted = append([]Setting{{sysctlMax, limit}}, wanted...)
		if buckets, known := present[sysctlBuckets]; known && buckets < limit/4 {
			wanted = append(wanted, Setting{sysctlBuckets, limit / 4})
		}
	}
	for _, s := range wanted {
		if v, known := present[s.Name]; s.Value > 0 && (!known || v != s.Value) {
			plan = append(plan, s)
		}
	}
	return plan
}

func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

// Problem is a setting that has not the value that it should have.
type Problem struct {
	Setting
	Err error
}

// Error names the setting, the value, and the remedy where there is one.
func (p Problem) Error() string {
	s := fmt.Sprintf("set %s to %d: %v", p.Name, p.Value, p.Err)
	switch {
	case ReadOnly(p.Err):
		s += ": this process may not; set it on the host, or set the conntrack fields of the configuration to 0"
	case errors.Is(p.Err, fs.ErrNotExist):
		s += ": the module nf_conntrack is not loaded yet, or this network namespace may not have its own value"
	}
	return s
}

// Unwrap returns what the kernel said.
func (p Problem) Unwrap() error { return p.Err }

// Fatal tells whether the node must be looked after before a proxy can work there. A setting that this process may not
// write, or that is not there, is none of these: the proxy works with the kernel's own value. (A missing one is worth
// another try after the first Apply, which makes the kernel load the module.)
func (p Problem) Fatal() bool { return !ReadOnly(p.Err) && !errors.Is(p.Err, fs.ErrNotExist) }

// Missing tells whether there is no such setting yet.
func (p Problem) Missing() bool { return errors.Is(p.Err, fs.ErrNotExist) }

// TuneConntrack makes the kernel follow the configuration. It is idempotent: it writes only what differs, and changes
// everything that it can. It returns the settings written and those that could not be.
func TuneConntrack(sys Sysctl, c ConntrackConfig, processors int) (written []Setting, problems []Problem) {
	present := map[string]int{}
	for _, name := range []string{sysctlMax, sysctlBuckets, sysctlTCPEstablished, sysctlTCPCloseWait, sysctlUDP, sysctlUDPStream, sysctlTCPBeLiberal} {
		// What cannot be read is written, and the write says what is wrong.
		if text, err := sys.Read(name); err == nil {
			if v, err := strconv.Atoi(text); err == nil {
				present[name] = v
			}
		}
	}
	for _, s := range ConntrackPlan(c, processors, present) {
		if err := sys.Write(s.Name, strconv.Itoa(s.Value)); err != nil {
			problems = append(problems, Problem{Setting: s, Err: err})
		} else {
			written = append(written, s)
		}
	}
	return written, problems
}
