package sync

import (
	"context"
	"errors"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"turnout/proxy"
	"turnout/proxy/metrics"
)

// inspected is a Backend that looks at its rules when it is asked.
type inspected struct {
	*kernel
	asked  recorded
	broken recorded // errors to come
}

func (i *inspected) Check(context.Context) (string, error) {
	i.asked.add("")
	if errs := i.broken.take(); len(errs) > 0 {
		return "", errors.New(errs[0])
	}
	if i.holds() == text(&proxy.State{Family: i.family, Node: i.node}) {
		return "no Service is there", nil
	}
	return "", nil
}

// A Backend that nobody watches is asked once a sync period, and what is missing is repaired at once; also if others ask for syncs meanwhile.
func TestInspector(t *testing.T) {
	run(t, func(r *rig) {
		b := &inspected{kernel: r.kernels[proxy.IPv4]}
		r.loop.families[0].backend = b
		r.loop.SetService(service("web", "10.96.0.1", v1.ProtocolTCP))
		r.synced()
		b.asked.take()
		r.after(10 * usual.timing.MaxRetry)
		if n := len(b.asked.take()); n != 10 {
			t.Errorf("asked %d times in ten periods", n)
		}
		b.kernel.mu.Lock()
		b.kernel.services = map[proxy.ServicePortName]*proxy.Service{}
		b.kernel.mu.Unlock()
		r.after(usual.timing.MaxRetry + time.Second)
		if got := b.names(); len(got) != 1 {
			t.Errorf("after a period the kernel holds %v", got)
		}
		r.wantValue(1, metrics.TableRepairs, ipv4)
		b.asked.take()
		b.broken.add("cannot look")
		r.log.take()
		for range 100 {
			r.loop.Wake()
			r.after(usual.timing.MaxRetry / 50)
		}
		if n := len(b.asked.take()); n != 2 {
			t.Errorf("asked %d times in two periods with many syncs", n)
		}
		if n := len(r.log.with("cannot look")); n != 1 {
			t.Errorf("the error was logged %d times", n)
		}
		r.wantValue(1, metrics.TableRepairs, ipv4)
	}, exact)
}
