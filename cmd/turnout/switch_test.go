package main

import (
	"context"
	"errors"
	"strings"
	gosync "sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"
	"k8s.io/klog/v2"

	"turnout/proxy"
	"turnout/proxy/config"
	"turnout/proxy/node"
	"turnout/proxy/sync"
)

// pliant is a Backend that takes everything, or fails.
type pliant struct{ apply func(context.Context) error }

func (p pliant) Apply(ctx context.Context, _ *proxy.State) (proxy.Report, error) {
	return proxy.Report{Full: true}, p.apply(ctx)
}
func (pliant) Forget()                       {}
func (pliant) Cleanup(context.Context) error { return nil }

// watched is an engine of a pliant Backend, and what became of its watch.
type watched struct {
	*engine
	watching, begun, ended, gone atomic.Bool
}

func newWatched(name config.Mode, apply func(context.Context) error) *watched {
	w := &watched{engine: newEngine(name)}
	w.Backends[proxy.IPv4] = pliant{apply}
	w.Gone = func() { w.gone.Store(true) }
	w.watch = func(ctx context.Context, inUse <-chan struct{}) {
		w.watching.Store(true)
		select {
		case <-inUse:
			w.begun.Store(true)
		case <-ctx.Done():
		}
		<-ctx.Done()
		w.ended.Store(true)
	}
	return w
}

// lines are what was logged in a bubble of its own time.
type lines struct {
	mu   gosync.Mutex // guards what follows
	text strings.Builder
}

func (l *lines) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.WriteString(line + "\n")
}

// soFar waits until nothing happens any more.
func (l *lines) soFar() string {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// works is Apply of a Backend that works.
func works(context.Context) error { return nil }

// steered runs a test with a proxy in mode nftables whose loop runs, and that opens next as any other mode.
func steered(t *testing.T, next *watched, test func(ctx context.Context, r *reloaded, first *watched, log *lines)) {
	synctest.Test(t, func(t *testing.T) {
		r, first := newReload(t), newWatched(config.NFTables, works)
		var log lines
		ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), funcr.New(func(_, args string) { log.add(args) }, funcr.Options{})))
		var err error
		if r.addrs, err = node.NewAddresses(node.AddressOptions{}); err != nil {
			t.Fatal(err)
		}
		r.loop = sync.New(sync.Options{Families: r.families, Mode: first.Mode, Facts: r.factsConfig(r.cfg), Timing: timing(r.cfg), Metrics: r.metrics, Health: r.health})
		r.open = func(context.Context, *config.Config) (*engine, error) { return next.engine, nil }
		begin, stop := watch(ctx, first.engine)
		r.course.engine, r.course.stopWatching = first.engine, stop
		begin()
		r.tellMode(ctx)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			r.loop.Run(ctx)
		}()
		r.loop.Synced()
		time.Sleep(time.Second)
		test(ctx, r, first, &log)
		cancel()
		<-ended
	})
}

// What others change in a new mode's rules is noticed from before there are any, and told from when they are in use. What has no effect in the mode is warned of.
func TestSteer(t *testing.T) {
	next := newWatched(config.IPTables, nil)
	next.Backends[proxy.IPv4] = pliant{func(context.Context) error {
		if !next.watching.Load() {
			return errors.New("nobody watches")
		}
		return nil
	}}
	steered(t, next, func(ctx context.Context, r *reloaded, first *watched, log *lines) {
		if err := r.changed(ctx, []byte(reloadHeader+"ipvs: {scheduler: mh}\n")); err != nil {
			r.t.Fatal(err)
		}
		r.events = nil
		if err := r.steer(ctx, "iptables"); err != nil {
			r.t.Fatal(err)
		}
		text := log.soFar()
		if !next.begun.Load() || next.ended.Load() || next.gone.Load() || !first.ended.Load() || !first.gone.Load() {
			t.Errorf("watch of the new mode: begun %t, ended %t; of the old one: ended %t", next.begun.Load(), next.ended.Load(), first.ended.Load())
		}
		if len(r.events) != 1 || r.events[0].note != "mode iptables (node_label)" || r.mode.Load() != "iptables" {
			t.Errorf("mode %v, events %+v", r.mode.Load(), r.events)
		}
		for _, mode := range []string{"nftables", "iptables"} {
			if n := strings.Count(text, "ipvs.scheduler: mh has no effect in mode "+mode+":"); n != 1 {
				t.Errorf("warned %d times of a field without effect in mode %s, in\n%s", n, mode, text)
			}
		}
	})
}

// After a change that fails, or that the end of the process cuts short, all is as before.
func TestSteerFails(t *testing.T) {
	for name, apply := range map[string]func(context.Context) error{
		"no memory": func(context.Context) error { return errors.New("no memory") },
		"context deadline exceeded": func(ctx context.Context) error { // and does not end before
			<-ctx.Done()
			return ctx.Err()
		},
	} {
		next := newWatched(config.IPTables, apply)
		steered(t, next, func(ctx context.Context, r *reloaded, first *watched, log *lines) {
			limited, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			err := r.steer(limited, "iptables")
			_ = log.soFar()
			if err == nil || !strings.Contains(err.Error(), name) || first.ended.Load() || first.gone.Load() || next.begun.Load() {
				t.Errorf("%s: %v; watch of the old mode ended %t, of the new one begun %t", name, err, first.ended.Load(), next.begun.Load())
			}
			if len(r.events) != 0 || r.mode.Load() != "nftables" || r.course.label != "" || r.course.cfg.Mode != config.NFTables {
				t.Errorf("%s: mode %v, label %q, events %+v", name, r.mode.Load(), r.course.label, r.events)
			}
			if !next.ended.Load() || next.gone.Load() != (name == "no memory") {
				t.Errorf("%s: watch of the new mode ended %t, the mode closed %t", name, next.ended.Load(), next.gone.Load())
			}
		})
	}
}

// Before all objects are there, a label changes nothing and keeps nobody from following the configuration file.
func TestLabelBeforeObjects(t *testing.T) {
	steered(t, newWatched(config.IPTables, works), func(ctx context.Context, r *reloaded, _ *watched, log *lines) {
		labels, delivered := make(chan string, 1), make(chan struct{})
		go r.followLabel(ctx, delivered, labels)
		labels <- "iptables"
		_ = log.soFar()
		if !r.course.TryLock() {
			r.t.Fatal("the configuration file cannot be followed")
		}
		r.course.Unlock()
		time.Sleep(time.Minute)
		if r.mode.Load() != "nftables" {
			t.Errorf("mode %v before all objects are there", r.mode.Load())
		}
		close(delivered)
		time.Sleep(time.Minute)
		if _ = log.soFar(); r.mode.Load() != "iptables" {
			t.Errorf("mode %v, want that of the label", r.mode.Load())
		}
	})
}
