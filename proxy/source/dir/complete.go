package dir

import (
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// complete fills the fields that an API server would have filled, for manifests written by hand, and drops metadata that is
// large and of no use to a proxy.
func complete(o metav1.Object) {
	o.SetManagedFields(nil)
	delete(o.GetAnnotations(), v1.LastAppliedConfigAnnotation)
	switch o := o.(type) {
	case *v1.Service:
		completeService(&o.Spec)
	case *discovery.EndpointSlice:
		for i := range o.Ports {
			set(&o.Ports[i].Name, "")
			set(&o.Ports[i].Protocol, v1.ProtocolTCP)
		}
	}
}

// completeService follows the defaults that the API reference gives for ServiceSpec.
func completeService(s *v1.ServiceSpec) {
	fill(&s.Type, v1.ServiceTypeClusterIP)
	fill(&s.SessionAffinity, v1.ServiceAffinityNone)
	for i := range s.Ports {
		fill(&s.Ports[i].Protocol, v1.ProtocolTCP)
	}
	if s.Type != v1.ServiceTypeExternalName {
		set(&s.InternalTrafficPolicy, v1.ServiceInternalTrafficPolicyCluster)
	}
	if s.Type == v1.ServiceTypeNodePort || s.Type == v1.ServiceTypeLoadBalancer {
		fill(&s.ExternalTrafficPolicy, v1.ServiceExternalTrafficPolicyCluster)
	}
	if len(s.ClusterIPs) == 0 && s.ClusterIP != "" {
		s.ClusterIPs = []string{s.ClusterIP}
	}
	if s.ClusterIP == "" && len(s.ClusterIPs) > 0 {
		s.ClusterIP = s.ClusterIPs[0]
	}
	if s.SessionAffinity != v1.ServiceAffinityClientIP {
		return
	}
	if s.SessionAffinityConfig == nil {
		s.SessionAffinityConfig = &v1.SessionAffinityConfig{}
	}
	if s.SessionAffinityConfig.ClientIP == nil {
		s.SessionAffinityConfig.ClientIP = &v1.ClientIPConfig{}
	}
	set(&s.SessionAffinityConfig.ClientIP.TimeoutSeconds, v1.DefaultClientIPServiceAffinitySeconds)
}

// fill gives a field its default if it is empty.
func fill[T comparable](field *T, value T) {
	var empty T
	if *field == empty {
		*field = value
	}
}

// set gives an optional field its default if it is absent.
func set[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}
