package main

import (
	"context"
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // rest_client_* metrics
	"k8s.io/klog/v2"

	"turnout/proxy"
	"turnout/proxy/config"
	"turnout/proxy/source/kube"
)

// newClusterFeed connects to the API server and waits for the own Node.
func newClusterFeed(ctx context.Context, d *daemon) (*feed, error) {
	client, err := newClient(&d.cfg.Client)
	if err != nil {
		return nil, err
	}
	// Events have a rate limit of their own: hundreds of them, waiting for their turn, must not hold up lists.
	forEvents, err := newClient(&d.cfg.Client)
	if err != nil {
		return nil, err
	}
	// The name that kube-proxy's events have: dashboards and scripts look for it.
	recorder, err := kube.NewRecorder(ctx, forEvents, "kube-proxy", d.nodeName)
	if err != nil {
		return nil, fmt.Errorf("start recording events: %w", err)
	}
	f := &feed{
		source: kube.New(client, kube.Options{NodeName: d.nodeName, Resync: d.cfg.Sync.Resync}),
		events: func(name proxy.ServiceName, reason, note string) {
			recorder.Event(kube.ServiceRef(name), v1.EventTypeWarning, reason, "Sync", note)
		},
		nodeEvent: func(e nodeEvent) {
			recorder.Event(recorder.Node(), e.kind, e.reason, e.action, e.note)
		},
		check: func(cfg *config.Config) error {
			_, err := newClient(&cfg.Client)
			return err
		},
		started: func(context.Context) {
			recorder.Event(recorder.Node(), v1.EventTypeNormal, "Starting", "StartKubeProxy", "")
		},
	}
	f.node, err = waitForNode(ctx, client, d)
	return f, err
}

func newClient(c *config.Client) (kubernetes.Interface, error) {
	return kube.NewClient(kube.ClientOptions{Kubeconfig: c.Kubeconfig, Master: c.Master, AcceptContentTypes: c.AcceptContentTypes,
		ContentType: c.ContentType, QPS: c.QPS, Burst: c.Burst})
}

func waitForNode(ctx context.Context, client kubernetes.Interface, d *daemon) (*v1.Node, error) {
	if d.cfg.DetectLocal.Mode == config.DetectNodeCIDR {
		return kube.WaitForNode(ctx, client, d.nodeName, kube.HasPodCIDRs, kube.PodCIDRPatience)
	}
	n, err := kube.WaitForNode(ctx, client, d.nodeName, kube.HasIP, kube.NodePatience)
	if err == nil || errors.Is(err, context.Canceled) {
		return n, err
	}
	klog.FromContext(ctx).Error(err, "Going on without the own Node; it is used as soon as it is there")
	return n, nil
}
