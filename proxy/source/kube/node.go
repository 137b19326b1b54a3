package kube

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

const (
	// NodePatience is how long kube-proxy waits at start for its Node and the addresses in it; it goes on without them.
	NodePatience = 30 * time.Second
	// PodCIDRPatience is how long it waits for the Node's pod CIDRs if it recognises local pods by them.
	PodCIDRPatience = 5 * time.Minute

	nodePollPeriod = time.Second
)

// HasIP reports whether a Node has an internal or external IP address.
func HasIP(n *v1.Node) bool {
	for _, a := range n.Status.Addresses {
		if a.Type != v1.NodeInternalIP && a.Type != v1.NodeExternalIP {
			continue
		}
		if _, err := netip.ParseAddr(a.Address); err == nil {
			return true
		}
	}
	return false
}

// HasPodCIDRs reports whether a Node was given prefixes for its pods.
func HasPodCIDRs(n *v1.Node) bool { return len(n.Spec.PodCIDRs) > 0 || n.Spec.PodCIDR != "" }

// WaitForNode asks for the Node every second until it is as wanted. After timeout, or when ctx ends, it returns an error that
// says why, and the Node as it was last seen, which is nil if it never was.
func WaitForNode(ctx context.Context, client kubernetes.Interface, name string, until func(*v1.Node) bool, timeout time.Duration) (*v1.Node, error) {
	parent := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// No deadline: the client's rate limiter would refuse a request that it cannot let through before, and hide the reason.
	defer time.AfterFunc(timeout, cancel).Stop()
	tick := time.NewTicker(nodePollPeriod)
	defer tick.Stop()
	var last *v1.Node
	var reason string
	for {
		n, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err == nil && until(n) {
			return n, nil
		}
		if err == nil {
			last = n
		}
		// An answer that was cut short by the end of the wait says nothing new.
		if now := whyNot(err); now != reason && ctx.Err() == nil {
			reason = now
			klog.FromContext(ctx).Info("Waiting for the own Node", "node", name, "reason", reason, "atMost", timeout)
		}
		select {
		case <-tick.C:
			continue
		case <-ctx.Done():
		}
		if parent.Err() != nil {
			return last, fmt.Errorf("wait for node %q: %w", name, parent.Err())
		}
		if reason == "" {
			reason = unreachable.remedy(nodes, nil) // not one answer came
		}
		return last, fmt.Errorf("wait for node %q: not there after %v: %s", name, timeout, reason)
	}
}

func whyNot(err error) string {
	switch {
	case err == nil:
		return "its addresses or pod CIDRs are not there yet"
	case apierrors.IsNotFound(err):
		return fmt.Sprintf("there is no Node of this name; if it has another one, set it with --hostname-override: %v", err)
	}
	if remedy := causeOf(err).remedy(nodes, err); remedy != "" {
		return fmt.Sprintf("%s: %v", remedy, err)
	}
	return err.Error()
}
