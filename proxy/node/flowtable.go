package node

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// FlowTable is how full the kernel's table of tracked connections is.
type FlowTable struct {
	// Used and Max are numbers of flows: those of this network namespace, and what is permitted.
	Used, Max int
	// Dropped counts packets that connection tracking dropped in this network namespace, ever: nearly always because the table was full, and none of its flows could be
	// given up for theirs.
	Dropped uint64
}

// The names of the settings and the counters; Documentation/networking/nf_conntrack-sysctl.rst, and ct_cpu_seq_show in net/netfilter/nf_conntrack_standalone.c.
const (
	sysctlCount   = "net/netfilter/nf_conntrack_count"
	conntrackStat = "thread-self/net/stat/nf_conntrack"
	columnDropped = "drop"
)

// FlowTable reads how full the table is. The error wraps fs.ErrNotExist if nothing is tracked yet.
func (p Proc) FlowTable() (FlowTable, error) {
	var t FlowTable
	for name, to := range map[string]*int{sysctlCount: &t.Used, sysctlMax: &t.Max} {
		text, err := p.Read(name)
		if err == nil {
			*to, err = strconv.Atoi(text)
		}
		if err != nil {
			return t, fmt.Errorf("read the setting %s: %w", name, err)
		}
	}
	text, err := p.read(conntrackStat)
	if err == nil {
		t.Dropped, err = sumColumn(text, columnDropped)
	}
	if err != nil {
		return t, fmt.Errorf("read the statistics of connection tracking: %w", err)
	}
	return t, nil
}

// sumColumn adds up one column of a table with a line for each processor, of hexadecimal numbers, below a line of names.
func sumColumn(text, name string) (sum uint64, err error) {
	head, lines, _ := strings.Cut(text, "\n")
	column := -1
	for i, n := range strings.Fields(head) {
		if n == name {
			column = i
		}
	}
	if column < 0 {
		return 0, fmt.Errorf("there is no column %q in %q", name, head)
	}
	for l := range strings.Lines(lines) {
		words := strings.Fields(l)
		if len(words) <= column {
			return 0, fmt.Errorf("%q has no column %d", l, column)
		}
		n, err := strconv.ParseUint(words[column], 16, 64)
		if err != nil {
			return 0, fmt.Errorf("column %q: %w", name, err)
		}
		sum += n
	}
	return sum, nil
}

// full is the share of the table, in percent, from which on packets are taken to be dropped because of that: flows may have ended since.
const full = 90

// Problem says that the table is full, and what helps; "" if no packet was dropped since before.
func (t FlowTable) Problem(before FlowTable) string {
	if t.Dropped <= before.Dropped || t.Used*100 < t.Max*full {
		return ""
	}
	return fmt.Sprintf("the kernel's table of tracked connections is full (%d of %d flows): %d packets that would have begun new connections were dropped; raise conntrack.maxPerCore or "+
		"conntrack.min, or the setting net.netfilter.nf_conntrack_max itself where these are 0, or lower conntrack.tcpEstablishedTimeout", t.Used, t.Max, t.Dropped-before.Dropped)
}

// WatchFlowTable looks at the table once a period, until the context ends. tell is called with the Problem when packets are dropped, once until a period passes without.
// What cannot be read is not watched: before anything is tracked there is no table, and other kernels may not have the counters.
func WatchFlowTable(ctx context.Context, p Proc, period time.Duration, tell func(problem string)) {
	before, err := p.FlowTable()
	known, told := err == nil, false
	for tick := time.NewTicker(period); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		now, err := p.FlowTable()
		if err != nil {
			known = false
			continue
		}
		problem := ""
		if known {
			problem = now.Problem(before)
		}
		if problem != "" && !told {
			tell(problem)
		}
		before, known, told = now, true, problem != ""
	}
}
