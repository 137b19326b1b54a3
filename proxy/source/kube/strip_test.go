package kube

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
)

// noted is metadata as an API server gives it.
func noted(labels, annotations map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: "a", Namespace: "b", UID: "c", ResourceVersion: "4", Generation: 5, GenerateName: "a-",
		CreationTimestamp: metav1.NewTime(time.Unix(6, 0)), DeletionTimestamp: new(metav1.NewTime(time.Unix(7, 0))),
		Labels: labels, Annotations: annotations, Finalizers: []string{"x"},
		OwnerReferences: []metav1.OwnerReference{{Name: "x"}}, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "x"}},
	}
}

// kept is what is left of noted.
func kept(labels, annotations map[string]string) metav1.ObjectMeta {
	m := noted(labels, annotations)
	m.Generation, m.GenerateName, m.Finalizers, m.OwnerReferences, m.ManagedFields = 0, "", nil, nil, nil
	return m
}

func TestStrip(t *testing.T) {
	class, ready := new("class"), new(true)
	spec := v1.ServiceSpec{
		ClusterIP: "10.0.0.1", ClusterIPs: []string{"10.0.0.1"}, ExternalIPs: []string{"192.0.2.1"}, Type: v1.ServiceTypeLoadBalancer,
		SessionAffinity: v1.ServiceAffinityClientIP, LoadBalancerSourceRanges: []string{"192.0.2.0/24"}, LoadBalancerClass: class,
		ExternalTrafficPolicy: v1.ServiceExternalTrafficPolicyLocal, HealthCheckNodePort: 30001,
		IPFamilies: []v1.IPFamily{v1.IPv4Protocol}, InternalTrafficPolicy: new(v1.ServiceInternalTrafficPolicyLocal),
	}
	full, lean := spec, spec
	full.Selector = map[string]string{"app": "x"}
	full.Ports = []v1.ServicePort{{Name: "http", Protocol: v1.ProtocolTCP, Port: 80, NodePort: 30000, AppProtocol: new("http")}}
	lean.Ports = []v1.ServicePort{{Name: "http", Protocol: v1.ProtocolTCP, Port: 80, NodePort: 30000}}
	balancer := v1.LoadBalancerStatus{Ingress: []v1.LoadBalancerIngress{{IP: "192.0.2.9"}}}

	endpoint := discovery.Endpoint{
		Addresses: []string{"10.1.0.1"}, NodeName: new("n1"), Conditions: discovery.EndpointConditions{Ready: ready, Serving: ready, Terminating: ready},
		Hints: &discovery.EndpointHints{ForZones: []discovery.ForZone{{Name: "z"}}, ForNodes: []discovery.ForNode{{Name: "n1"}}},
	}
	fat := endpoint
	fat.TargetRef, fat.Zone, fat.Hostname = &v1.ObjectReference{Name: "pod"}, new("z"), new("h")
	fat.DeprecatedTopology = map[string]string{"a": "b"}
	triggered := map[string]string{v1.EndpointsLastChangeTriggerTime: "2026-01-01T00:00:00Z"}
	addresses := []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "192.0.2.7"}}
	nodeSpec := v1.NodeSpec{PodCIDRs: []string{"10.1.0.0/24"}, Taints: []v1.Taint{{Key: "k"}}}

	tests := map[string]struct{ in, want runtime.Object }{
		"Service": {
			&v1.Service{
				ObjectMeta: noted(map[string]string{"app": "x"}, map[string]string{"big": "x"}), Spec: full,
				Status: v1.ServiceStatus{LoadBalancer: balancer, Conditions: []metav1.Condition{{Type: "x"}}},
			},
			&v1.Service{ObjectMeta: kept(nil, nil), Spec: lean, Status: v1.ServiceStatus{LoadBalancer: balancer}},
		},
		"EndpointSlice": {
			&discovery.EndpointSlice{
				ObjectMeta:  noted(map[string]string{discovery.LabelServiceName: "a", "app": "x"}, map[string]string{v1.EndpointsLastChangeTriggerTime: "2026-01-01T00:00:00Z", "x": "y"}),
				AddressType: discovery.AddressTypeIPv4, Endpoints: []discovery.Endpoint{fat},
				Ports: []discovery.EndpointPort{{Name: new("http"), Port: new(int32(80)), AppProtocol: new("http")}},
			},
			&discovery.EndpointSlice{
				ObjectMeta:  kept(map[string]string{discovery.LabelServiceName: "a"}, triggered),
				AddressType: discovery.AddressTypeIPv4, Endpoints: []discovery.Endpoint{endpoint},
				Ports: []discovery.EndpointPort{{Name: new("http"), Port: new(int32(80))}},
			},
		},
		"ServiceCIDR": {
			&networking.ServiceCIDR{
				ObjectMeta: noted(nil, triggered), Spec: networking.ServiceCIDRSpec{CIDRs: []string{"10.0.0.0/24"}},
				Status: networking.ServiceCIDRStatus{Conditions: []metav1.Condition{{Type: "Ready"}}},
			},
			&networking.ServiceCIDR{ObjectMeta: kept(nil, nil), Spec: networking.ServiceCIDRSpec{CIDRs: []string{"10.0.0.0/24"}}},
		},
		"Node": {
			&v1.Node{
				ObjectMeta: noted(map[string]string{"zone": "x"}, map[string]string{"big": "x"}), Spec: nodeSpec,
				Status: v1.NodeStatus{Addresses: addresses, Images: []v1.ContainerImage{{Names: []string{"x"}}}, Conditions: []v1.NodeCondition{{Type: "Ready"}}},
			},
			&v1.Node{ObjectMeta: kept(map[string]string{"zone": "x"}, nil), Spec: nodeSpec, Status: v1.NodeStatus{Addresses: addresses}},
		},
	}
	for name, tt := range tests {
		for _, again := range []string{"", " again"} {
			got, err := strip(tt.in)
			if d := cmp.Diff(any(tt.want), got); d != "" || err != nil {
				t.Errorf("%s%s: error %v, (-want +got):\n%s", name, again, err, d)
			}
		}
	}
	tomb := cache.DeletedFinalStateUnknown{Key: "a/b"}
	if got, err := strip(tomb); err != nil || got != any(tomb) {
		t.Errorf("an object of unknown state became %v, %v", got, err)
	}
}

// TestStoreIsLean checks what an informer would keep of a slice as a controller writes it.
func TestStoreIsLean(t *testing.T) {
	s := &discovery.EndpointSlice{ObjectMeta: noted(nil, map[string]string{"x": strings.Repeat("y", 1000)})}
	for range 100 {
		s.Endpoints = append(s.Endpoints, discovery.Endpoint{
			Addresses: []string{"10.1.0.1"}, Zone: new("zone"),
			TargetRef: &v1.ObjectReference{Kind: "Pod", Namespace: "b", Name: "web-5d4f8c7b9-abcde", UID: "0f5e2f0e-5ee0-4f27-8c6c-3f0a8f8d0a3f"},
		})
	}
	before, _ := json.Marshal(s)
	lean, _ := strip(s)
	after, _ := json.Marshal(lean)
	if len(after)*3 > len(before) {
		t.Errorf("%d bytes are left of %d, want less than a third", len(after), len(before))
	}
}
