package node

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// defaults are those of the configuration.
func defaults() ConntrackConfig {
	return ConntrackConfig{MaxPerCore: 32768, Min: 131072, TCPEstablished: 24 * time.Hour, TCPCloseWait: time.Hour}
}

func TestConntrackPlan(t *testing.T) {
	limit := func(perCore, least int) ConntrackConfig { return ConntrackConfig{MaxPerCore: perCore, Min: least} }
	present := func(flows, buckets int) map[string]int {
		return map[string]int{sysctlMax: flows, sysctlBuckets: buckets}
	}
	for _, tt := range []struct {
		name       string
		config     ConntrackConfig
		processors int
		present    map[string]int
		want       []Setting
	}{
		{"so many for each processor", limit(32768, 131072), 8, present(65536, 262144), []Setting{{sysctlMax, 262144}}},
		{"at least the minimum", limit(32768, 131072), 2, present(65536, 262144), []Setting{{sysctlMax, 131072}}},
		{"at most 1048576", limit(32768, 131072), 64, present(65536, 262144), []Setting{{sysctlMax, 1048576}}},
		{"also if the minimum is more", limit(32768, 2000000), 2, present(65536, 262144), []Setting{{sysctlMax, 1048576}}},
		{"also lower than before", limit(32768, 131072), 2, present(262144, 262144), []Setting{{sysctlMax, 131072}}},
		{"not if it is so already", limit(32768, 131072), 2, present(131072, 262144), nil},
		{"0 for each processor leaves it alone, whatever the minimum", limit(0, 131072), 2, present(65536, 16384), nil},
		{"hash table of a quarter", limit(32768, 131072), 8, present(65536, 16384), []Setting{{sysctlMax, 262144}, {sysctlBuckets, 65536}}},
		{"hash table of a quarter, also if the limit is right", limit(32768, 131072), 8, present(262144, 16384), []Setting{{sysctlBuckets, 65536}}},
		{"hash table never gets smaller", limit(32768, 131072), 2, present(131072, 32769), nil},
		{"hash table of unknown size is left alone", limit(32768, 131072), 2, nil, []Setting{{sysctlMax, 131072}}},
		{"timeouts in seconds", ConntrackConfig{TCPEstablished: 24 * time.Hour, TCPCloseWait: time.Hour, UDP: 30 * time.Second, UDPStream: 2 * time.Minute}, 2, nil,
			[]Setting{{sysctlTCPEstablished, 86400}, {sysctlTCPCloseWait, 3600}, {sysctlUDP, 30}, {sysctlUDPStream, 120}}},
		{"parts of seconds are rounded up", ConntrackConfig{UDP: 250 * time.Millisecond, UDPStream: 1001 * time.Millisecond}, 2, nil, []Setting{{sysctlUDP, 1}, {sysctlUDPStream, 2}}},
		{"timeouts of 0 are left alone", ConntrackConfig{}, 2, map[string]int{sysctlUDP: 30}, nil},
		{"timeouts that are right are left alone", ConntrackConfig{UDP: 30 * time.Second}, 2, map[string]int{sysctlUDP: 30}, nil},
		{"be liberal", ConntrackConfig{TCPBeLiberal: true}, 2, map[string]int{sysctlTCPBeLiberal: 0}, []Setting{{sysctlTCPBeLiberal, 1}}},
		{"not being liberal does not undo it", ConntrackConfig{}, 2, map[string]int{sysctlTCPBeLiberal: 1}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, ConntrackPlan(tt.config, tt.processors, tt.present)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func freshKernel() *FakeSysctl {
	return NewFakeSysctl(map[string]string{
		sysctlMax: "65536", sysctlBuckets: "16384", sysctlTCPEstablished: "432000", sysctlTCPCloseWait: "60",
		sysctlUDP: "30", sysctlUDPStream: "120", sysctlTCPBeLiberal: "0",
	})
}

func TestTuneConntrackIsIdempotent(t *testing.T) {
	sys := freshKernel()
	written, problems := TuneConntrack(sys, defaults(), 4)
	if len(problems) > 0 || len(written) != 4 {
		t.Fatalf("written %v, problems %v", written, problems)
	}
	want := `net/netfilter/nf_conntrack_buckets = 32768
net/netfilter/nf_conntrack_max = 131072
net/netfilter/nf_conntrack_tcp_be_liberal = 0
net/netfilter/nf_conntrack_tcp_timeout_close_wait = 3600
net/netfilter/nf_conntrack_tcp_timeout_established = 86400
net/netfilter/nf_conntrack_udp_timeout = 30
net/netfilter/nf_conntrack_udp_timeout_stream = 120
`
	if diff := cmp.Diff(want, sys.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if written, problems = TuneConntrack(sys, defaults(), 4); len(written)+len(problems) > 0 {
		t.Errorf("again: written %v, problems %v", written, problems)
	}
}

func TestTuneConntrackProblems(t *testing.T) {
	for _, tt := range []struct {
		name           string
		err            error
		fatal, missing bool
		tells          string
	}{
		{"read-only file system", unix.EROFS, false, false, "set it on the host"},
		{"no permission", unix.EACCES, false, false, "set it on the host"},
		{"not permitted", unix.EPERM, false, false, "set it on the host"},
		{"no module", unix.ENOENT, false, true, "module nf_conntrack"},
		{"refused value", unix.EINVAL, true, false, "invalid argument"},
		{"no memory", unix.ENOMEM, true, false, "cannot allocate memory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sys := freshKernel()
			sys.Refuse(sysctlMax, tt.err)
			written, problems := TuneConntrack(sys, defaults(), 4)
			if len(problems) != 1 || problems[0].Setting != (Setting{sysctlMax, 131072}) {
				t.Fatalf("problems %v, want one of %s", problems, sysctlMax)
			}
			if p := problems[0]; p.Fatal() != tt.fatal || p.Missing() != tt.missing || !strings.Contains(p.Error(), tt.tells) || !strings.Contains(p.Error(), "131072") {
				t.Errorf("%v: fatal %t, missing %t", p, p.Fatal(), p.Missing())
			}
			if len(written) != 3 {
				t.Errorf("written %v, want the other three", written)
			}
		})
	}
}

func TestTuneConntrackWithoutModule(t *testing.T) {
	written, problems := TuneConntrack(NewFakeSysctl(nil), defaults(), 4)
	if len(written) != 0 || len(problems) != 3 {
		t.Fatalf("written %v, problems %v", written, problems)
	}
	for _, p := range problems {
		if p.Fatal() || !p.Missing() {
			t.Errorf("%v: fatal %t, missing %t", p, p.Fatal(), p.Missing())
		}
	}
}

func TestTuneConntrackReadOnlyWithRightValues(t *testing.T) {
	sys := NewFakeSysctl(map[string]string{sysctlMax: "131072", sysctlBuckets: "262144"})
	sys.Refuse(sysctlMax, unix.EROFS)
	for _, c := range []ConntrackConfig{{MaxPerCore: 32768, Min: 131072}, {Min: 1}} {
		if written, problems := TuneConntrack(sys, c, 2); len(written)+len(problems) > 0 {
			t.Errorf("%+v: written %v, problems %v", c, written, problems)
		}
	}
}
