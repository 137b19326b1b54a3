package benchmodes

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

var (
	sizes  = flag.String("modes.services", "1000,10000", "numbers of Services for BenchmarkModes")
	only   = flag.String("modes.only", "", "the modes that BenchmarkModes measures, such as nftables,ipvs; all if empty")
	rounds = flag.Int("modes.rounds", 15, "how often BenchmarkModes measures each operation")
	limit  = flag.Duration("modes.limit", time.Minute, "for how long BenchmarkModes measures an operation in one mode at most; once at least")
)

func TestMain(m *testing.M) { os.Exit(proxytest.Main(m)) }

// An operation is what is measured: round n applies the n-th State, in turn.
type operation struct {
	name   string
	forget bool // what is in the kernel, so that everything is written
	states []*proxy.State
}

func operations(s *proxy.State) []operation {
	return []operation{
		{"full sync", true, []*proxy.State{s}},
		{"one endpoint comes or goes", false, []*proxy.State{with(s, proxytest.NumberedService(50, 6)), s}},
		{"one Service comes or goes", false, []*proxy.State{with(s, proxytest.NumberedService(1<<20, 5)), s}},
	}
}

// times are how long an operation took in one mode, and how much of the processors' time.
type times struct {
	each, cpu []time.Duration
	total     time.Duration
}

func (t *times) add(took, cpu time.Duration) {
	t.each, t.total, t.cpu = append(t.each, took), t.total+took, append(t.cpu, cpu)
}

func median(d []time.Duration) time.Duration { return slices.Sorted(slices.Values(d))[len(d)/2] }

// used is the processors' time that this process and the programs that it ran have had. Unlike what a clock says, it does not depend on what else the machine does.
func used() (sum time.Duration) {
	for _, who := range [...]int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var r unix.Rusage
		if unix.Getrusage(who, &r) == nil { // which can only fail for other arguments
			sum += time.Duration(r.Utime.Nano() + r.Stime.Nano())
		}
	}
	return sum
}

// BenchmarkModes measures the same operations in each mode, in turn, so that whatever else the machine does slows all of them: what counts are the ratios to the first
// mode. It measures as often as -modes.rounds says, whatever -benchtime is.
func BenchmarkModes(b *testing.B) {
	for text := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 100 {
			b.Fatalf("-modes.services: %q is no number of at least 100", text)
		}
		done := false
		b.Run("services="+text, func(b *testing.B) {
			if !done { // what a round costs is no help to find a number of rounds
				inRooms(b.Context(), b, chosen(*only), func(rooms []*room, missing []error) { measure(b, n, rooms, missing) })
			}
			done = true
			b.ReportMetric(0, "ns/op")
		})
	}
}

// chosen are the modes with these names.
func chosen(names string) []mode {
	if names == "" {
		return modes
	}
	return slices.DeleteFunc(slices.Clone(modes), func(m mode) bool { return !slices.Contains(strings.Split(names, ","), m.name) })
}

func measure(b *testing.B, n int, rooms []*room, missing []error) {
	for _, err := range missing {
		b.Logf("not measured: %v", err)
	}
	if len(rooms) == 0 {
		b.Skip("this machine can have no mode")
	}
	s := proxytest.LargeState(n)
	table := &strings.Builder{}
	w := tabwriter.NewWriter(table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%d Services\t%s\t\n", n, strings.Join(names(rooms), "\t"))
	first := make([]times, len(rooms))
	for i, r := range rooms {
		timed(b, r, operation{states: []*proxy.State{s}}, 0, &first[i])
	}
	row(w, "first sync, once", first)
	for _, o := range operations(s) {
		row(w, o.name, inTurn(b, rooms, o))
	}
	w.Flush()
	fmt.Printf("\nMedians of the times and of the processors' time, and how often that of the first mode:\n%s", table) // a log of a benchmark is cut after ten lines
}

// inTurn measures an operation in all modes, round by round.
func inTurn(b *testing.B, rooms []*room, o operation) []times {
	out := make([]times, len(rooms))
	for round := range *rounds {
		for i, r := range rooms {
			if len(out[i].each) == 0 || out[i].total < *limit {
				timed(b, r, o, round, &out[i])
			}
		}
	}
	for i, r := range rooms { // an odd number of rounds leaves another State
		if err := r.apply(b.Context(), o.states[len(o.states)-1]); err != nil {
			b.Fatalf("round %d: %v", i, err)
		}
	}
	return out
}

func timed(b *testing.B, r *room, o operation, round int, to *times) {
	if o.forget {
		r.backend.Forget()
	}
	cpu, start := used(), time.Now()
	if err := r.apply(b.Context(), o.states[round%len(o.states)]); err != nil {
		b.Fatal(err)
	}
	to.add(time.Since(start), used()-cpu)
}

func names(rooms []*room) (out []string) {
	for _, r := range rooms {
		out = append(out, r.name)
	}
	return out
}

func row(w *tabwriter.Writer, name string, all []times) {
	fmt.Fprint(w, name)
	for i := range all {
		cell(w, median(all[i].each), median(all[0].each))
		if n := len(all[i].each); n < *rounds && n > 1 {
			fmt.Fprintf(w, " of %d", n)
		}
	}
	fmt.Fprint(w, "\t\nprocessors")
	for i := range all {
		cell(w, median(all[i].cpu), median(all[0].cpu))
	}
	fmt.Fprintln(w, "\t")
}

func cell(w *tabwriter.Writer, d, base time.Duration) {
	fmt.Fprintf(w, "\t%s (x %.3g)", rounded(d), float64(d)/float64(base))
}

// rounded keeps three digits.
func rounded(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}
