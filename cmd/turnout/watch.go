package main

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"turnout/proxy"
	"turnout/proxy/nftables"
)

// watcher is nftables.Watch or nftables.WatchGate.
type watcher func(ctx context.Context, own []uint32, fn func(nftables.Interference)) error

// watchTable has the table rebuilt when somebody else changes it, as watch tells. What happens before it is in use waits until then.
func (d *daemon) watchTable(ctx context.Context, watch watcher, own []uint32, inUse <-chan struct{}) {
	tell := func(f proxy.Family, what, process string, pid uint32) {
		select {
		case <-inUse:
		case <-ctx.Done():
		}
		if ctx.Err() == nil { // afterwards the loop itself removes the table
			d.loop.Interfered(ctx, f, what, process, pid)
		}
	}
	for ctx.Err() == nil {
		err := watch(ctx, own, func(i nftables.Interference) { tell(i.Family, i.What, i.Process, i.PID) })
		if err == nil || ctx.Err() != nil {
			return
		}
		klog.FromContext(ctx).Error(err, "Changes that others make to the table are not noticed; this is tried again")
		select {
		case <-ctx.Done():
			return
		case <-time.After(watchRetry):
		}
		for _, f := range d.families {
			tell(f, "unknown", "", 0) // there may have been some meanwhile
		}
	}
}

// flowTablePeriod is how often it is looked whether connection tracking drops packets.
const flowTablePeriod = 10 * time.Second

// flowTableFull reports that connection tracking has no room: new connections fail then, to Services and to everything else.
func (d *daemon) flowTableFull(ctx context.Context, problem string) {
	klog.FromContext(ctx).Error(nil, "Connections fail", "reason", problem)
	d.feed.nodeEvent(nodeEvent{v1.EventTypeWarning, "ConntrackTableFull", "TrackConnections", problem})
}

const watchRetry = 10 * time.Second
