package main

import (
	"context"
	"errors"
	"fmt"
	gosync "sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"turnout/proxy/config"
	"turnout/proxy/debug"
	"turnout/proxy/metrics"
)

// labelMode is the label of the own Node that overrides the mode of the configuration. Its values are those of the field mode.
const labelMode = "turnout/proxy-mode"

// Reasons of events on the Node.
const (
	// reasonMode is the reason of events about a mode that was chosen by this proxy or by the label.
	reasonMode = "ProxyModeChosen"
	// reasonModeRefused is the reason of events about a mode that this node cannot have.
	reasonModeRefused = "ProxyModeRefused"
	// actionMode is what was done or tried then.
	actionMode = "ChooseProxyMode"
)

// A choice is a mode that can be had, with the configuration for it.
type choice struct {
	cfg    *config.Config
	engine *engine // nil if the mode is in use already
	reason metrics.ModeReason
	// lacks says what keeps the node from the modes that were preferred to this one.
	lacks error
}

// course is which mode the proxy is in. Whoever changes it holds the lock from before it looks until everything follows.
type course struct {
	gosync.Mutex
	choice
	label string // that the choice follows
	// refused is why a label was not followed, so that it is told once. It is not guarded: at the start nobody else is there, and then it is followLabel's.
	refused string
	// stopWatching ends the watch of the mode in use.
	stopWatching context.CancelFunc
}

// choose opens the mode that a label asks for, or the configuration if it is "".
func (d *daemon) choose(ctx context.Context, cfg *config.Config, label string) (choice, error) {
	asked, reason := cfg.Asked, metrics.ModeByConfiguration
	switch {
	case label != "":
		m, err := config.ParseAsked(label)
		if err != nil {
			return choice{}, fmt.Errorf("label %s: %w", labelMode, err)
		}
		asked, reason = m, metrics.ModeByLabel
	case !cfg.ModeSet:
		reason = metrics.ModeByDefault
	}
	if asked == config.Auto {
		return d.chooseFirst(ctx, cfg)
	}
	c, err := d.try(ctx, cfg, asked)
	c.reason = reason
	return c, err
}

// chooseFirst opens the first mode that the node can run.
func (d *daemon) chooseFirst(ctx context.Context, cfg *config.Config) (choice, error) {
	var lacks []error
	for i, m := range config.Modes {
		c, err := d.try(ctx, cfg, m)
		if err != nil && ctx.Err() != nil {
			return choice{}, err
		}
		if err != nil {
			lacks = append(lacks, fmt.Errorf("mode %s: %w", m, err))
			continue
		}
		c.reason, c.lacks = metrics.ModeByAuto, errors.Join(lacks...)
		if i > 0 {
			c.reason = metrics.ModeByFallback
		}
		return c, nil
	}
	return choice{}, fmt.Errorf("this node can run no mode: %w", errors.Join(lacks...))
}

// try opens a mode, unless it is in use.
func (d *daemon) try(ctx context.Context, cfg *config.Config, m config.Mode) (choice, error) {
	in, err := cfg.In(m)
	if err != nil {
		return choice{}, err
	}
	if d.course.engine != nil && d.course.cfg.Mode == m {
		return choice{cfg: in}, nil
	}
	e, err := d.open(ctx, in)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err() // the process is to end, which says nothing of the node
	}
	if err == nil && d.course.engine != nil {
		e.leaveNothing()
	}
	return choice{cfg: in, engine: e}, err
}

// begin chooses the mode of the start: that of the label if the node can have it, as the configuration's is for all nodes.
func (d *daemon) begin(ctx context.Context, label string) error {
	d.course.Lock()
	defer d.course.Unlock()
	c, err := d.choose(ctx, d.cfg, label)
	if err != nil && label != "" && ctx.Err() == nil {
		d.refuseLabel(ctx, label, err)
		label = ""
		c, err = d.choose(ctx, d.cfg, label)
	}
	if err != nil {
		return err
	}
	if d.cfg.Mode != c.cfg.Mode { // those of the configuration's own mode were told
		warn(ctx, d.cfg.Warnings, c.cfg.Warnings)
	}
	d.cfg, d.course.choice, d.course.label = c.cfg, c, label
	return nil
}

// tellMode reports the mode in use.
func (d *daemon) tellMode(ctx context.Context) {
	c := &d.course.choice
	before := d.mode.Swap(string(c.cfg.Mode)) // nil at the start
	d.metrics.ModeIs(string(c.cfg.Mode), c.reason)
	logger := klog.FromContext(ctx)
	note := fmt.Sprintf("mode %s (%s)", c.cfg.Mode, c.reason)
	if c.lacks != nil {
		note += fmt.Sprintf("; this node lacks what other modes need: %v", c.lacks)
	}
	logger.Info("Proxy mode", "mode", c.cfg.Mode, "reason", c.reason, "lacks", c.lacks)
	if change := before != nil && before != string(c.cfg.Mode); change || c.reason != metrics.ModeByConfiguration && c.reason != metrics.ModeByDefault {
		d.feed.nodeEvent(nodeEvent{v1.EventTypeNormal, reasonMode, actionMode, note})
	}
}

// refuseLabel reports a label that cannot be followed, unless the same was told last.
func (d *daemon) refuseLabel(ctx context.Context, label string, err error) {
	if why := label + ": " + err.Error(); why != d.course.refused {
		d.course.refused = why
		stays := "the mode of the configuration is taken"
		if mode := d.mode.Load(); mode != nil {
			stays = fmt.Sprint("the mode stays ", mode)
		}
		klog.FromContext(ctx).Error(err, "The mode cannot be changed", "instead", stays)
		d.feed.nodeEvent(nodeEvent{v1.EventTypeWarning, reasonModeRefused, actionMode, fmt.Sprintf("%s: %v", stays, err)})
	}
}

// watch notices from now on what others change in an engine's rules, until stop is called. The loop is told of it once these are in use, which begin tells.
func watch(ctx context.Context, e *engine) (begin func(), stop context.CancelFunc) {
	ctx, stop = context.WithCancel(ctx)
	inUse := make(chan struct{})
	if e.watch != nil {
		go e.watch(ctx, inUse)
	}
	return func() { close(inUse) }, stop
}

// follow takes on a configuration for the mode in use.
func (d *daemon) follow(ctx context.Context, cfg *config.Config) error {
	if err := d.loop.Configure(d.factsConfig(cfg), timing(cfg)); err != nil {
		return err
	}
	d.course.cfg = cfg
	d.health.SetTimeout(healthTimeout(cfg))
	if err := debug.PublishConfig(cfg.External); err != nil {
		klog.FromContext(ctx).Error(err, "/configz stays as it is")
	}
	return nil
}
