package kube

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// An API server that does not answer is tried again after these delays, each made up to twice as long at random. They are shorter
// than the informers' own, which grow to a minute: for so long after the API server is back, traffic would be sent to endpoints
// that are gone. A request that was not answered cost the API server next to nothing.
const (
	firstReconnect = time.Second
	maxReconnect   = 5 * time.Second
)

// client lists and watches objects of one kind. Typed clients implement it.
type client[L runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (apiwatch.Interface, error)
}

// newInformer returns an informer of the objects like example that narrow, which may be nil, leaves over.
func newInformer[L runtime.Object](s *Source, r resource, c client[L], example runtime.Object, narrow func(*metav1.ListOptions)) cache.SharedIndexInformer {
	if narrow == nil {
		narrow = func(*metav1.ListOptions) {}
	}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			narrow(&o)
			return reached(ctx, s.report, r, func() (runtime.Object, error) { return c.List(ctx, o) })
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			narrow(&o)
			return reached(ctx, s.report, r, func() (apiwatch.Interface, error) { return c.Watch(ctx, o) })
		},
	}
	return cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(lw, s.client), example, s.opts.Resync, cache.Indexers{})
}

// reached calls do until the API server answers, or ctx ends, and returns what it returned last. The informers do not tell of
// connections that are refused, so this does.
func reached[T any](ctx context.Context, report *reporter, r resource, do func() (T, error)) (T, error) {
	logger, start := klog.FromContext(ctx), time.Now()
	for delay := time.Duration(0); ; {
		out, err := do()
		if !unanswered(err) || causeOf(err) != unreachable || ctx.Err() != nil {
			if err == nil && delay > 0 {
				logger.Info("The API server is reached again", "resource", r.String(), "after", time.Since(start).Round(time.Second))
			}
			return out, err
		}
		report.watchFailed(logger, r, err)
		delay = min(max(firstReconnect, 2*delay), maxReconnect)
		select {
		case <-ctx.Done():
			return out, err
		case <-time.After(wait.Jitter(delay, 1)):
		}
	}
}
