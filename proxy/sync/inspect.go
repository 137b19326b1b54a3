package sync

import (
	"context"
	"time"

	"k8s.io/klog/v2"
)

// Inspector is a Backend of which nothing tells when others change its rules: it must be asked.
type Inspector interface {
	// Check says what is missing of the rules that Apply wrote, "" if nothing is. It is called by the goroutine that calls Apply.
	Check(ctx context.Context) (damage string, err error)
}

// inspect has a Backend look at its rules if it is time. What is missing is repaired by the Apply that follows. It returns when to look again;
// 0 for never.
func (l *Loop) inspect(ctx context.Context, f *family) time.Duration {
	i, ok := f.backend.(Inspector)
	if !ok {
		return 0
	}
	period := l.timing().MaxRetry
	if f.applied == nil { // there are no rules yet
		f.inspected = time.Now()
	}
	if wait := period - time.Since(f.inspected); wait > 0 {
		return wait
	}
	f.inspected = time.Now()
	damage, err := i.Check(ctx)
	switch {
	case err != nil:
		klog.FromContext(ctx).Error(err, "It cannot be seen whether the rules of the proxy are whole", "ipFamily", f.Family)
	case damage != "":
		l.Interfered(ctx, f.Family, damage, "", 0)
	}
	return period
}
