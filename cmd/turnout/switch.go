package main

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"turnout/proxy/source"
)

// labelRetry is when a mode is tried again that the node could not have.
const labelRetry = 30 * time.Second

// nodeSink looks at the own Node's label on its way to the loop.
type nodeSink struct {
	source.Sink
	labels chan string // the value that is not followed yet, if there is any
}

func (s *nodeSink) SetNode(n *v1.Node) {
	s.Sink.SetNode(n)
	for {
		select {
		case s.labels <- n.Labels[labelMode]:
			return
		default:
		}
		select { // what was not followed until now need not be
		case <-s.labels:
		default:
		}
	}
}

// followLabel changes the mode while the proxy runs, as the own Node's label asks for. It begins when all objects were delivered: the loop would not change before, and
// a change that is waited for holds up the configuration file.
func (d *daemon) followLabel(ctx context.Context, delivered <-chan struct{}, labels <-chan string) {
	select {
	case <-ctx.Done():
		return
	case <-delivered:
	}
	var label string
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case l := <-labels:
			if l == label && retry != nil {
				continue // it is tried again in its time
			}
			label = l
		case <-retry:
		}
		retry = nil
		err := d.steer(ctx, label)
		switch {
		case err == nil:
			d.course.refused = ""
		case ctx.Err() != nil:
			return
		default:
			retry = time.After(labelRetry)
			d.refuseLabel(ctx, label, err)
		}
	}
}

// steer changes to the mode that a label asks for, or to that of the configuration if it is "". After an error the mode is what it was.
func (d *daemon) steer(ctx context.Context, label string) error {
	d.course.Lock()
	defer d.course.Unlock()
	if label == d.course.label {
		return nil
	}
	next, err := d.choose(ctx, d.course.cfg, label)
	if err != nil {
		return err
	}
	if next.engine == nil { // the mode stays, for another reason
		next.engine = d.course.engine
	} else if err := d.switchTo(ctx, next); err != nil {
		return err
	}
	warn(ctx, d.course.cfg.Warnings, next.cfg.Warnings)
	d.course.choice, d.course.label = next, label
	d.tellMode(ctx)
	if err := d.follow(ctx, next.cfg); err != nil {
		klog.FromContext(ctx).Error(err, "The mode changed, but not all of its settings are in effect")
	}
	return nil
}

// switchTo has the loop change to another mode, and returns when it has, or could not.
func (d *daemon) switchTo(ctx context.Context, next choice) error {
	if err := d.loop.Check(d.factsConfig(next.cfg)); err != nil {
		next.engine.Gone()
		return err
	}
	begin, stop := watch(ctx, next.engine) // before there is anything that others could change
	done := make(chan error, 1)
	d.loop.SwitchTo(next.engine.Mode, func(err error) {
		if err != nil {
			stop()
		} else { // and nothing was removed yet, which the watch of before would take for a stranger's work
			d.course.stopWatching()
			d.course.stopWatching = stop
			begin()
		}
		done <- err
	})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
