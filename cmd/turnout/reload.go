package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-base/logs"
	"k8s.io/klog/v2"

	"turnout/proxy/config"
)

// Reasons of events on the Node.
const (
	// reasonReloaded is the reason of events about changes of the configuration file that took effect.
	reasonReloaded = "ConfigurationReloaded"
	// reasonRefused is the reason of events about a configuration file that cannot be used.
	reasonRefused = "ConfigurationInvalid"
)

// followConfig brings changes of the configuration file into effect. It ends with an error, and the process with it, if a field changes that
// only a new process can follow; kube-proxy ends for any change.
func (d *daemon) followConfig(ctx context.Context) error {
	r := &reload{daemon: d}
	err := d.cfg.Follow(ctx, func(contents []byte) error { return r.changed(ctx, contents) }, func(err error) {
		klog.FromContext(ctx).Error(err, "Changes of the configuration file may be noticed only after ten seconds")
	})
	return ignoreCancel(ctx, err)
}

// reload is what is known of the configuration file while the proxy runs.
type reload struct{ *daemon }

// reread returns the choice that new contents of the file lead to, always with the engine in use. If they ask for another mode, the node can have it, or else the
// working one would be given up for none.
func (r *reload) reread(ctx context.Context, contents []byte) (choice, error) {
	next := r.course.choice
	before, labelled := next.cfg, r.course.label != ""
	cfg, err := before.Reread(contents, labelled)
	if err != nil {
		return choice{}, err
	}
	next.cfg = cfg
	if labelled && cfg.Asked != before.Asked {
		klog.FromContext(ctx).Info("The configuration file asks for another mode, which holds when the Node has no label any longer", "file", cfg.ConfigFile, "mode", cfg.Asked, "label", r.course.label)
	}
	if labelled || cfg.Asked == before.Asked && cfg.ModeSet == before.ModeSet {
		return next, nil
	}
	c, err := r.choose(ctx, cfg, "")
	if err != nil {
		return choice{}, fmt.Errorf("mode: %s: %w", cfg.Asked, err)
	}
	if c.engine != nil {
		c.engine.Gone() // it is for the process that comes
	}
	c.engine = next.engine
	return c, nil
}

// changed brings new contents of the file into effect, or says why not.
func (r *reload) changed(ctx context.Context, contents []byte) error {
	r.course.Lock()
	defer r.course.Unlock()
	next, err := r.reread(ctx, contents)
	if err != nil {
		return r.refuse(ctx, err)
	}
	before, cfg := r.course.choice, next.cfg
	var restart, all []string
	for _, c := range before.cfg.ChangesTo(cfg) {
		all = append(all, c.String())
		if !c.Live {
			restart = append(restart, c.String())
		}
	}
	if len(restart) > 0 {
		if err := r.canStart(cfg); err != nil {
			return r.refuse(ctx, err)
		}
		klog.FromContext(ctx).Info("The configuration file changed in fields that only a new process can follow: this one ends", "file", cfg.ConfigFile, "changes", all)
		return fmt.Errorf("%w: %s: to be started again with %s", config.ErrChanged, cfg.ConfigFile, strings.Join(restart, ", "))
	}
	if err := r.follow(ctx, cfg); err != nil {
		return r.refuse(ctx, err)
	}
	r.course.choice = next
	if next.reason != before.reason {
		r.tellMode(ctx)
	}
	r.apply(ctx, before.cfg, cfg, all)
	return nil
}

// canStart tells what would end a new process at once, as far as that can be seen from here.
func (r *reload) canStart(cfg *config.Config) error {
	return errors.Join(r.loop.Check(r.factsConfig(cfg)), checkPrimary(cfg, r.families), r.feed.check(cfg))
}

// refuse reports contents that cannot be used. It returns the error of the context: if that has ended, nothing is known of the contents.
func (r *reload) refuse(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	problems := []string{err.Error()}
	if all, ok := errors.AsType[config.Problems](err); ok {
		problems = problems[:0]
		for _, p := range all {
			problems = append(problems, p.Error())
		}
	}
	klog.FromContext(ctx).Error(nil, "The configuration file changed and cannot be used; the configuration of before stays in effect, but a restart would fail",
		"file", r.course.cfg.ConfigFile, "problems", problems)
	r.metrics.ConfigRefused()
	r.feed.nodeEvent(nodeEvent{v1.EventTypeWarning, reasonRefused, "ReloadConfiguration", r.course.cfg.ConfigFile + " is not used. " + strings.Join(problems, ". ")})
	return nil
}

// apply brings into effect what is not the loop's, and reports.
func (r *reload) apply(ctx context.Context, before, next *config.Config, changes []string) {
	logger := klog.FromContext(ctx)
	r.metrics.ConfigFileUsed()
	if len(changes) == 0 {
		logger.Info("The configuration file changed, but no setting did", "file", next.ConfigFile)
		return
	}
	r.applyKernel(ctx, before, next)
	if v := next.Logging.Verbosity; v != before.Logging.Verbosity {
		if _, err := logs.GlogSetter(strconv.FormatUint(uint64(v), 10)); err != nil {
			logger.Error(err, "The log's verbosity stays as it is")
		}
	}
	r.metrics.ConfigReloaded()
	logger.Info("The configuration file changed and is in effect", "file", next.ConfigFile, "changes", changes)
	warn(ctx, before.Warnings, next.Warnings)
	r.feed.nodeEvent(nodeEvent{v1.EventTypeNormal, reasonReloaded, "ReloadConfiguration", strings.Join(changes, ", ")})
}

// applyKernel writes the kernel's settings if they changed. What cannot be written stays as it is: the proxy works without.
func (r *reload) applyKernel(ctx context.Context, before, next *config.Config) {
	logger := klog.FromContext(ctx)
	if next.OOMScoreAdj != before.OOMScoreAdj {
		if err := proc.SetOOMScoreAdj(next.OOMScoreAdj); err != nil {
			logger.Info("The out-of-memory score stays as it is", "error", err.Error())
		}
	}
	r.conntrack.Store(&next.Conntrack)
	if next.Conntrack == before.Conntrack {
		return
	}
	for _, p := range r.tuneConntrack(ctx) {
		logger.Error(p, "A setting of connection tracking stays as it is")
	}
}
