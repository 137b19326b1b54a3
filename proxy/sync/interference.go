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
	seen     bool        // since the last rebuild
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
		klog.FromContext(ctx).Info("Another process changed the table of the proxy; it is rebuilt", "ipFamily", fam, "change", what, "process", process, "pid", pid)
		l.options.Metrics.TableRepaired(fam)
		delay := f.foreign.note()
		if delay <= 0 {
			l.Wake()
			continue
		}
		time.AfterFunc(delay, l.Wake)
	}
}

// note remembers that there is something to repair, and returns how long that must wait.
func (i *interference) note() time.Duration {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.seen = true
	return time.Until(i.notUntil)
}

// take tells whether the table must be rebuilt now.
func (i *interference) take() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.seen || time.Now().Before(i.notUntil) {
		return false
	}
	i.seen = false
	return true
}

func (i *interference) repaired(took time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.notUntil = time.Now().Add(repairShare * took)
}
