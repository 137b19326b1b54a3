package sync

import (
	"context"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"turnout/proxy"
)

// interference is what is known of changes that others made to a family's table.
type interference struct {
	mu       *sync.Mutex // guards what follows
	seen     uint64      // changes so far
	repaired uint64      // how many of them a rebuild has undone
	notUntil time.Time   // when the next repair may be
}

func newInterference() interference { return interference{mu: new(sync.Mutex)} }

// Interfered tells the loop that another process changed the table of a family, which is then rebuilt. If that happens again and again,
// repairs are spaced out: they never take more than a fifth of the time.
func (l *Loop) Interfered(ctx context.Context, fam proxy.Family, what, process string, pid uint32) {
	for _, f := range l.families {
		if f.Family != fam {
			continue
		}
		if f.foreign.note() {
			klog.FromContext(ctx).Info("Another process changed the table of the proxy; it is rebuilt", "ipFamily", fam, "change", what, "process", process, "pid", pid)
		}
		l.Wake()
	}
}

// note remembers that there is something to repair; false if that was known already.
func (i *interference) note() (isNew bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	isNew = i.seen == i.repaired
	i.seen++
	return isNew
}

// begin is called before a sync. It tells whether that must rebuild the table, and which changes a rebuild that begins now undoes.
func (i *interference) begin() (rebuild bool, upTo uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.seen != i.repaired && !time.Now().Before(i.notUntil), i.seen
}

// wait returns after what time there is something to repair; 0 for never.
func (i *interference) wait() time.Duration {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.seen == i.repaired {
		return 0
	}
	return max(1, time.Until(i.notUntil))
}

// rebuilt notes a rebuild, for whatever reason it was done. Changes that came after it began may have come after it ended, too, and are
// still to be repaired.
func (i *interference) rebuilt(upTo uint64, took time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.repaired = upTo
	i.notUntil = time.Now().Add(repairShare * took)
}
