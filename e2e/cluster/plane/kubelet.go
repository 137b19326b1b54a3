package plane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// RegisterNodes makes the Node objects of n1 and n2, in zones z1 and z2.
func (p *Plane) RegisterNodes(ctx context.Context) error {
	return errors.Join(p.RegisterNode(ctx, "n1", "z1"), p.RegisterNode(ctx, "n2", "z2"))
}

// RegisterNode makes the Node object of n1 or n2, as its kubelet would.
func (p *Plane) RegisterNode(ctx context.Context, name, zone string) error {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		v1.LabelHostname: name, v1.LabelTopologyZone: zone, v1.LabelOSStable: "linux",
	}}}
	n.Spec.PodCIDRs = podCIDRs[name]
	n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
	if _, err := p.Admin.CoreV1().Nodes().Create(ctx, n, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make Node %s: %w", name, err)
	}
	host := p.lab.Host(name)
	return p.SetNodeAddresses(ctx, name, host.Addrs...)
}

// podCIDRs are the networks of the lab's pods.
var podCIDRs = map[string][]string{"n1": {"10.244.1.0/24", "fd00:10:244:1::/64"}, "n2": {"10.244.2.0/24", "fd00:10:244:2::/64"}}

// SetNodeAddresses writes addresses of a Node into its status: the first of each family is its primary one.
func (p *Plane) SetNodeAddresses(ctx context.Context, name string, addrs ...netip.Addr) error {
	list := []v1.NodeAddress{{Type: v1.NodeHostName, Address: name}}
	for _, a := range addrs {
		list = append(list, v1.NodeAddress{Type: v1.NodeInternalIP, Address: a.String()})
	}
	return p.patchNode(ctx, name, map[string]any{"status": map[string]any{"addresses": list}}, "status")
}

// PatchNode merges a JSON patch into a Node: metadata and spec.
func (p *Plane) PatchNode(ctx context.Context, name string, patch map[string]any) error {
	return p.patchNode(ctx, name, patch)
}

func (p *Plane) patchNode(ctx context.Context, name string, patch map[string]any, subresource ...string) error {
	text, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	_, err = p.Admin.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, text, metav1.PatchOptions{}, subresource...)
	if err != nil {
		return fmt.Errorf("change Node %s: %w", name, err)
	}
	return nil
}

// Pod is a pod that runs on a host of the lab.
type Pod struct {
	Namespace, Name string
	Labels          map[string]string
	// Host is the lab's host whose addresses the pod has: a pod of a node, or a node for a pod in the host's network. Several pods may
	// be on the same host.
	Host string
	// NotReady has the pod run without being ready.
	NotReady bool
}

// RunPod makes a Pod object with the status that a kubelet would report once it runs.
func (p *Plane) RunPod(ctx context.Context, pod Pod) error {
	host := p.lab.Host(pod.Host)
	object := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels}}
	object.Spec = v1.PodSpec{
		NodeName: host.Node, HostNetwork: !host.Pod,
		Containers: []v1.Container{{Name: "main", Image: "example.com/none"}},
	}
	pods := p.Admin.CoreV1().Pods(pod.Namespace)
	if _, err := pods.Create(ctx, object, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make Pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	status := v1.PodStatus{Phase: v1.PodRunning, Conditions: []v1.PodCondition{ready(!pod.NotReady)}}
	seen := map[bool]bool{} // by whether the address is IPv4
	for _, a := range host.Addrs {
		if !seen[a.Is4()] {
			seen[a.Is4()] = true
			status.PodIPs = append(status.PodIPs, v1.PodIP{IP: a.String()})
		}
	}
	status.PodIP = status.PodIPs[0].IP
	return p.patchPod(ctx, pod.Namespace, pod.Name, status)
}

// SetReady reports that a pod is ready or not.
func (p *Plane) SetReady(ctx context.Context, namespace, name string, is bool) error {
	return p.patchPod(ctx, namespace, name, map[string]any{"conditions": []v1.PodCondition{ready(is)}})
}

// Terminate deletes a pod in such a way that it stays, terminating, until RemovePod.
func (p *Plane) Terminate(ctx context.Context, namespace, name string) error {
	return p.deletePod(ctx, namespace, name, 3600)
}

// RemovePod deletes a pod as if its containers had ended.
func (p *Plane) RemovePod(ctx context.Context, namespace, name string) error {
	return p.deletePod(ctx, namespace, name, 0)
}

func (p *Plane) deletePod(ctx context.Context, namespace, name string, seconds int64) error {
	err := p.Admin.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &seconds})
	if err != nil {
		return fmt.Errorf("delete Pod %s/%s: %w", namespace, name, err)
	}
	return nil
}

func ready(is bool) v1.PodCondition {
	c := v1.PodCondition{Type: v1.PodReady, Status: v1.ConditionFalse}
	if is {
		c.Status = v1.ConditionTrue
	}
	return c
}

// patchPod replaces the parts of a pod's status that are given.
func (p *Plane) patchPod(ctx context.Context, namespace, name string, status any) error {
	text, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return err
	}
	_, err = p.Admin.CoreV1().Pods(namespace).Patch(ctx, name, types.MergePatchType, text, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("report status of Pod %s/%s: %w", namespace, name, err)
	}
	return nil
}
