package kube

import (
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// strip drops in place what a proxy does not use, for the informers keep every object in memory: with managedFields, target
// references and conditions, EndpointSlices are several times as large. It implements cache.TransformFunc.
func strip(o any) (any, error) {
	switch o := o.(type) {
	case *v1.Service:
		stripService(o)
	case *discovery.EndpointSlice:
		stripEndpointSlice(o)
	case *networking.ServiceCIDR:
		o.ObjectMeta = stripMeta(&o.ObjectMeta)
		o.Status = networking.ServiceCIDRStatus{}
	case *v1.Node:
		stripNode(o)
	}
	return o, nil
}

// stripMeta keeps what identifies an object and tells its age. The resource version is the informer's.
func stripMeta(m *metav1.ObjectMeta, labels ...string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion,
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp, Labels: only(m.Labels, labels...),
	}
}

// only returns the entries of m with these keys; nil if there are none.
func only(m map[string]string, keys ...string) map[string]string {
	var out map[string]string
	for _, k := range keys {
		v, ok := m[k]
		if !ok {
			continue
		}
		if out == nil {
			out = make(map[string]string, len(keys))
		}
		out[k] = v
	}
	return out
}

func stripService(s *v1.Service) {
	s.ObjectMeta = stripMeta(&s.ObjectMeta, labelServiceProxyName)
	s.Spec.Selector = nil
	s.Status.Conditions = nil
	for i := range s.Spec.Ports {
		s.Spec.Ports[i].AppProtocol = nil
	}
}

func stripEndpointSlice(s *discovery.EndpointSlice) {
	triggered := only(s.Annotations, v1.EndpointsLastChangeTriggerTime)
	s.ObjectMeta = stripMeta(&s.ObjectMeta, discovery.LabelServiceName, v1.IsHeadlessService)
	s.Annotations = triggered
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		e.TargetRef, e.DeprecatedTopology, e.Hostname, e.Zone = nil, nil, nil, nil
	}
	for i := range s.Ports {
		s.Ports[i].AppProtocol = nil
	}
}

// stripNode keeps all labels: there is one Node only, and which labels matter is not for this package to know.
func stripNode(n *v1.Node) {
	labels := n.Labels
	n.ObjectMeta = stripMeta(&n.ObjectMeta)
	n.Labels = labels
	n.Status = v1.NodeStatus{Addresses: n.Status.Addresses}
}

// labelServiceProxyName is on Services that another proxy serves; the API server is asked to leave them out.
const labelServiceProxyName = "service.kubernetes.io/service-proxy-name"
