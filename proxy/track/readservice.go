package track

import (
	"net/netip"
	"slices"
	"strings"
	"time"
	"unique"

	v1 "k8s.io/api/core/v1"

	"turnout/proxy"
)

// labelServiceProxyName is on Services that another proxy serves.
const labelServiceProxyName = "service.kubernetes.io/service-proxy-name"

// Session affinity timeouts: the API's default, which also replaces what the API would not accept, and its limit.
const (
	defaultAffinity = 10800 * time.Second
	maxAffinity     = 86400 * time.Second
)

// ignored tells that a Service is not ours to serve: headless, ExternalName, or another proxy's.
func ignored(s *v1.Service) bool {
	_, foreign := s.Labels[labelServiceProxyName]
	return foreign || s.Spec.Type == v1.ServiceTypeExternalName || s.Spec.ClusterIP == "" || s.Spec.ClusterIP == v1.ClusterIPNone
}

// newService makes the record of a Service that is not ignored.
func newService(o *v1.Service) *Service {
	name := proxy.ServiceName{Namespace: intern(o.Namespace), Name: o.Name}
	p := &problems{service: name}
	s := &Service{
		Name:            name,
		ClusterIPs:      clusterIPs(o, p),
		ExternalIPs:     externalIPs(o, p),
		LoadBalancerIPs: loadBalancerIPs(o, p),
		Affinity:        affinity(o, p),
		Ports:           servicePorts(o, p),
	}
	if !o.CreationTimestamp.IsZero() {
		s.Created = o.CreationTimestamp.Unix()
	}
	s.readPolicies(o, p)
	s.readSourceRanges(o, p)
	s.Problems = p.list()
	return s
}

func (s *Service) readPolicies(o *v1.Service, p *problems) {
	switch pol := o.Spec.InternalTrafficPolicy; {
	case pol == nil, *pol == v1.ServiceInternalTrafficPolicyCluster, *pol == "":
	case *pol == v1.ServiceInternalTrafficPolicyLocal:
		s.InternalLocal = true
	default:
		p.add("spec.internalTrafficPolicy", string(*pol), policyRemedy)
	}
	switch pol := o.Spec.ExternalTrafficPolicy; pol {
	case v1.ServiceExternalTrafficPolicyCluster, "":
	case v1.ServiceExternalTrafficPolicyLocal:
		s.ExternalLocal = o.Spec.Type == v1.ServiceTypeLoadBalancer || o.Spec.Type == v1.ServiceTypeNodePort || len(o.Spec.ExternalIPs) > 0
	default:
		p.add("spec.externalTrafficPolicy", string(pol), policyRemedy)
	}
	if !s.ExternalLocal || o.Spec.Type != v1.ServiceTypeLoadBalancer {
		return
	}
	n, ok := port(o.Spec.HealthCheckNodePort)
	if !ok {
		p.add("spec.healthCheckNodePort", itoa(o.Spec.HealthCheckNodePort),
			"is not a port number, so load balancers cannot find out whether this node has endpoints; use 1 to 65535")
		return
	}
	s.HealthCheckNodePort = n
}

const policyRemedy = "is not a traffic policy; Cluster is used; write Cluster or Local"

func (s *Service) readSourceRanges(o *v1.Service, p *problems) {
	for i, text := range o.Spec.LoadBalancerSourceRanges {
		r, ok := parsePrefix(strings.TrimSpace(text)) // the API lets white space pass
		if !ok {
			p.add(at("spec.loadBalancerSourceRanges", i), text, "is not a CIDR; write it like 192.0.2.0/24 or 2001:db8::/32")
			continue
		}
		s.SourceRanges = append(s.SourceRanges, r)
	}
	slices.SortFunc(s.SourceRanges, netip.Prefix.Compare)
	s.SourceRanges = slices.Clip(slices.Compact(s.SourceRanges))
	s.SourceRangesUnreadable = len(o.Spec.LoadBalancerSourceRanges) > 0 && len(s.SourceRanges) == 0
}

// clusterIPs takes the first address of each family. Manifests that no API server completed may have clusterIP alone.
func clusterIPs(o *v1.Service, p *problems) (out [2]netip.Addr) {
	list, field := o.Spec.ClusterIPs, "spec.clusterIPs"
	if len(list) == 0 {
		list, field = []string{o.Spec.ClusterIP}, "spec.clusterIP"
	}
	for i, text := range list {
		a, remedy := addr(text)
		if remedy == "" && i < len(o.Spec.IPFamilies) && string(o.Spec.IPFamilies[i]) != proxy.FamilyOf(a).String() {
			remedy = "is not of the family that " + at("spec.ipFamilies", i) + " names; make the two agree"
		}
		if remedy != "" {
			if field == "spec.clusterIPs" {
				p.add(at(field, i), text, remedy)
			} else {
				p.add(field, text, remedy)
			}
			continue
		}
		if have := &out[index(proxy.FamilyOf(a))]; !have.IsValid() {
			*have = a
		}
	}
	return out
}

func externalIPs(o *v1.Service, p *problems) []netip.Addr {
	var out []netip.Addr
	for i, text := range o.Spec.ExternalIPs {
		a, remedy := addr(text)
		if remedy != "" {
			p.add(at("spec.externalIPs", i), text, remedy)
			continue
		}
		out = append(out, a)
	}
	return sorted(out)
}

// loadBalancerIPs leaves out ipMode Proxy, whose traffic must pass through the load balancer, and host names.
func loadBalancerIPs(o *v1.Service, p *problems) []netip.Addr {
	var out []netip.Addr
	for i, in := range o.Status.LoadBalancer.Ingress {
		if in.IP == "" || in.IPMode != nil && *in.IPMode != v1.LoadBalancerIPModeVIP {
			continue
		}
		a, remedy := addr(in.IP)
		if remedy != "" {
			p.add(at("status.loadBalancer.ingress", i)+".ip", in.IP, remedy)
			continue
		}
		out = append(out, a)
	}
	return sorted(out)
}

func sorted(as []netip.Addr) []netip.Addr {
	slices.SortFunc(as, netip.Addr.Compare)
	return slices.Clip(slices.Compact(as))
}

func affinity(o *v1.Service, p *problems) time.Duration {
	switch o.Spec.SessionAffinity {
	case v1.ServiceAffinityNone, "":
		return 0
	case v1.ServiceAffinityClientIP:
	default:
		p.add("spec.sessionAffinity", string(o.Spec.SessionAffinity), "is not a session affinity; None is used; write None or ClientIP")
		return 0
	}
	c := o.Spec.SessionAffinityConfig
	if c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
		return defaultAffinity
	}
	d := time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
	if d <= 0 || d > maxAffinity {
		p.add("spec.sessionAffinityConfig.clientIP.timeoutSeconds", itoa(*c.ClientIP.TimeoutSeconds),
			"is out of range; 10800 is used; write 1 to 86400")
		return defaultAffinity
	}
	return d
}

func servicePorts(o *v1.Service, p *problems) []ServicePort {
	out := make([]ServicePort, 0, len(o.Spec.Ports))
	for i := range o.Spec.Ports {
		in, field := &o.Spec.Ports[i], at("spec.ports", i)
		proto, ok := protocol(in.Protocol)
		if !ok {
			p.add(field+".protocol", string(in.Protocol), protocolRemedy)
			continue
		}
		n, ok := port(in.Port)
		if !ok {
			p.add(field+".port", itoa(in.Port), portRemedy)
			continue
		}
		sp := ServicePort{Name: intern(in.Name), Protocol: proto, Port: n}
		if slices.ContainsFunc(out, func(x ServicePort) bool { return x.Name == sp.Name && x.Protocol == sp.Protocol }) {
			p.add(field+".name", in.Name, "is the name of an earlier port of the same protocol, which alone is used; give each port a name of its own")
			continue
		}
		if sp.NodePort, ok = port(in.NodePort); !ok && in.NodePort != 0 {
			p.add(field+".nodePort", itoa(in.NodePort), portRemedy)
			sp.NodePort = 0
		}
		out = append(out, sp)
	}
	return out
}

// intern returns the one copy of a string that many records share.
func intern(s string) string {
	if s == "" {
		return ""
	}
	return unique.Make(s).Value()
}
