package track

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"turnout/proxy"
)

// Service is the compact record of one Service object: what load-balancing it depends on, and no more, for both families. It is
// immutable.
type Service struct {
	Name proxy.ServiceName
	// Created is the object's creation time in seconds since 1970; 0 if it does not say, as in a manifest.
	Created int64
	// InternalLocal tells that internalTrafficPolicy is Local.
	InternalLocal bool
	// ExternalLocal tells that externalTrafficPolicy is Local and that the Service is of a kind for which it counts: type
	// LoadBalancer or NodePort, or with external IPs.
	ExternalLocal bool
	// Affinity is the timeout of ClientIP session affinity, 0 for none.
	Affinity time.Duration
	// HealthCheckNodePort is where external load balancers ask about this node; 0 if the Service is not of type LoadBalancer
	// with externalTrafficPolicy Local, for which alone it counts.
	HealthCheckNodePort uint16
	// ClusterIPs are the IPv4 and the IPv6 ClusterIP, invalid if there is none. See ClusterIP.
	ClusterIPs [2]netip.Addr
	// ExternalIPs and LoadBalancerIPs (those of ipMode VIP) are of both families; sorted, unique.
	ExternalIPs, LoadBalancerIPs []netip.Addr
	// SourceRanges are the loadBalancerSourceRanges of both families: masked, sorted, unique.
	SourceRanges []netip.Prefix
	// SourceRangesUnreadable tells that there are loadBalancerSourceRanges and that none can be read.
	SourceRangesUnreadable bool
	// Ports are in the object's order; no two have the same name and protocol.
	Ports []ServicePort
	// Problems are what is wrong with the object.
	Problems []Problem
}

// ServicePort is one port of a Service.
type ServicePort struct {
	Name     string
	Protocol proxy.Protocol
	Port     uint16
	NodePort uint16 // 0 if it has none
}

// ClusterIP returns the ClusterIP of a family; it is invalid if the Service is not of that family.
func (s *Service) ClusterIP(f proxy.Family) netip.Addr {
	return s.ClusterIPs[index(f)]
}

// PortName returns the identity of one of the Service's ports.
func (s *Service) PortName(p *ServicePort) proxy.ServicePortName {
	return proxy.ServicePortName{ServiceName: s.Name, Port: p.Name, Protocol: p.Protocol}
}

// Equal compares contents; nil equals only nil.
func (s *Service) Equal(o *Service) bool {
	if s == nil || o == nil {
		return s == o
	}
	return s.Name == o.Name && s.Created == o.Created && s.InternalLocal == o.InternalLocal && s.ExternalLocal == o.ExternalLocal &&
		s.Affinity == o.Affinity && s.HealthCheckNodePort == o.HealthCheckNodePort && s.ClusterIPs == o.ClusterIPs &&
		slices.Equal(s.ExternalIPs, o.ExternalIPs) && slices.Equal(s.LoadBalancerIPs, o.LoadBalancerIPs) &&
		slices.Equal(s.SourceRanges, o.SourceRanges) && s.SourceRangesUnreadable == o.SourceRangesUnreadable &&
		slices.Equal(s.Ports, o.Ports) && slices.Equal(s.Problems, o.Problems)
}

// String returns one line for debugging; its form may change.
func (s *Service) String() string {
	return fmt.Sprintf("%s clusterIPs=%v externalIPs=%v loadBalancerIPs=%v sourceRanges=%v ports=%v internalLocal=%t externalLocal=%t "+
		"affinity=%s healthCheckNodePort=%d problems=%d", s.Name, s.ClusterIPs, s.ExternalIPs, s.LoadBalancerIPs, s.SourceRanges, s.Ports,
		s.InternalLocal, s.ExternalLocal, s.Affinity, s.HealthCheckNodePort, len(s.Problems))
}

// String returns the port like "http:80/TCP", with "@30080" added if there is a node port.
func (p ServicePort) String() string {
	s := fmt.Sprintf("%s:%d/%s", p.Name, p.Port, p.Protocol)
	if p.NodePort != 0 {
		s += fmt.Sprintf("@%d", p.NodePort)
	}
	return s
}

// index is where an array of both families has the entry of one.
func index(f proxy.Family) int {
	if f == proxy.IPv6 {
		return 1
	}
	return 0
}
