package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// load is connections being made in the background.
type load struct {
	cancel context.CancelFunc
	report chan lab.LoadReport
}

// startLoad connects to the Service web without a pause, until it is stopped.
func (d *demo) startLoad(ctx context.Context) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{cancel: cancel, report: make(chan lab.LoadReport, 1)}
	go func() {
		l.report <- d.lab.Client().Load(ctx, proxy.TCP, web, lab.LoadOptions{Parallel: 2, Attempts: 1 << 20, Timeout: 3 * time.Second})
	}()
	return l
}

func (l *load) stop() lab.LoadReport {
	l.cancel()
	return <-l.report
}

// failures describes those of a load, for a check.
func failures(r lab.LoadReport) string {
	s := fmt.Sprintf("%d connections meanwhile, %d failed", r.OK+r.Failed, r.Failed)
	if r.Failed > 0 {
		s += fmt.Sprintf(", such as: %v", r.Errors[0])
	}
	return s
}

// leaving shows an endpoint that terminates and goes: new connections avoid it at once, none fails, and those that it has
// live on.
func (d *demo) leaving(ctx context.Context) error {
	const name = "pod-5"
	address := d.lab.Host(name).Addr(proxy.IPv4).String()
	flow, err := d.flowTo(ctx, proxy.TCP, web, name)
	if err != nil {
		return err
	}
	defer flow.Stop()
	background := d.startLoad(ctx)
	defer background.cancel()

	d.progress("taking %s out", name)
	if err := d.manifests.edit("web.yaml", address, terminating); err != nil {
		return err
	}
	took, err := d.waitFor(ctx, name, false)
	d.check(err == nil, "%s terminates: no new connections after %d ms", name, took.Milliseconds())
	if err := d.manifests.edit("web.yaml", address, gone); err != nil {
		return err
	}
	before := flow.Report().Answered
	if err := pause(ctx, 700*time.Millisecond); err != nil {
		return err
	}
	var r lab.FlowReport
	err = until(ctx, 10*time.Second, func() (bool, error) { // a busy machine takes its time
		r = flow.Report()
		return r.Err != nil || r.Answered > before+50, nil
	})
	d.check(err == nil && r.Intact(), "%s is gone: its old connection goes on, %d messages of %d answered",
		name, r.Answered-before, r.Sent-before)
	if err := d.manifests.restore("web.yaml"); err != nil {
		return err
	}
	took, err = d.waitFor(ctx, name, true)
	d.check(err == nil, "%s is back: the first new connection after %d ms", name, took.Milliseconds())

	l := background.stop()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	d.check(l.Failed == 0 && l.OK > 100, "%s", failures(l))
	r = flow.Stop()
	d.check(r.Intact(), "the old connection: %v", r)
	return nil
}

// udpLeaving shows that a UDP client, whose packets have no connection to end, is led to another endpoint.
func (d *demo) udpLeaving(ctx context.Context) error {
	const name = "pod-4"
	flow, err := d.flowTo(ctx, proxy.UDP, dns, name)
	if err != nil {
		return err
	}
	defer flow.Stop()
	if err := d.manifests.edit("dns.yaml", d.lab.Host(name).Addr(proxy.IPv4).String(), gone); err != nil {
		return err
	}
	start := time.Now()
	err = until(ctx, 5*time.Second, func() (bool, error) { return len(flow.Report().Servers) > 1, nil })
	took := time.Since(start)
	r := flow.Stop()
	if err != nil {
		d.check(false, "a client with a fixed port is still sent to %s: %v", name, r)
		return nil
	}
	d.check(len(r.Servers) == 2, "%s is gone: a client with a fixed port goes on with %s after %d ms, %d of %d answered",
		name, r.Servers[1], took.Milliseconds(), r.Answered, r.Sent)
	return d.manifests.restore("dns.yaml")
}

// restart shows that connections need the rules, not the process.
func (d *demo) restart(ctx context.Context) error {
	flow, err := d.lab.Client().Flow(proxy.TCP, web, 5*time.Millisecond)
	if err != nil {
		return err
	}
	defer flow.Stop()
	background := d.startLoad(ctx)
	defer background.cancel()
	d.progress("killing the proxy")
	d.proxy.kill()
	if err := pause(ctx, 500*time.Millisecond); err != nil {
		return err
	}
	o := d.lab.Client().Dial(proxy.TCP, web, lab.DialOptions{})
	d.check(o.Result == lab.Connected, "the proxy was killed: %v", o.Result)
	// What changes while it is away must take effect when it is back.
	if err := d.manifests.edit("web.yaml", d.lab.Host("pod-1").Addr(proxy.IPv4).String(), gone); err != nil {
		return err
	}
	if _, err := d.startProxy(ctx); err != nil {
		background.stop()
		return err
	}
	took, err := d.waitFor(ctx, "pod-1", false)
	d.check(err == nil, "started again, it catches up: pod-1, removed meanwhile, out after %d ms", took.Milliseconds())
	l := background.stop()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	d.check(l.Failed == 0 && l.OK > 100, "%s", failures(l))
	r := flow.Stop()
	d.check(r.Intact(), "a connection from before: %v", r)
	return nil
}

// flowTo opens flows until one is with the wanted server.
func (d *demo) flowTo(ctx context.Context, protocol proxy.Protocol, to netip.AddrPort, server string) (*lab.Flow, error) {
	for range 200 {
		f, err := d.lab.Client().Flow(protocol, to, 5*time.Millisecond)
		if err != nil {
			return nil, err
		}
		err = until(ctx, 2*time.Second, func() (bool, error) { return len(f.Report().Servers) > 0, nil })
		if err != nil {
			f.Stop()
			return nil, err
		}
		if f.Report().Servers[0] == server {
			return f, nil
		}
		f.Stop()
	}
	return nil, errors.New("200 connections did not reach " + server)
}

// waitFor waits until new connections to the Service web reach a server, or until they do not. Without is believed after 60
// connections in a row, which an endpoint of five gets none of once in 600,000 times.
func (d *demo) waitFor(ctx context.Context, server string, reached bool) (time.Duration, error) {
	const row = 60
	start := time.Now()
	first := start // of the connections in a row that did not reach it
	without := 0
	err := until(ctx, 10*time.Second, func() (bool, error) {
		for range row {
			o := d.lab.Host("pod-1").Dial(proxy.TCP, web, lab.DialOptions{})
			if o.Result != lab.Connected {
				return false, fmt.Errorf("meanwhile: %v", o)
			}
			if o.Server == server {
				without, first = 0, time.Now()
				if reached {
					return true, nil
				}
				continue
			}
			without++
		}
		return !reached && without >= row, nil
	})
	if reached {
		return time.Since(start), err
	}
	return first.Sub(start), err
}

func pause(ctx context.Context, t time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(t):
		return nil
	}
}
