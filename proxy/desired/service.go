package desired

import (
	"slices"
	"strconv"

	"turnout/proxy"
	"turnout/proxy/track"
)

// rebuild makes everything of one Service object anew.
func (b *builder) rebuild(name proxy.ServiceName) {
	old, _ := b.old.Services.Get(name)
	s, _ := b.in.Services.Get(name)
	e, _ := b.in.Endpoints.Get(name)
	var found []Problem
	if s != nil {
		found = append(found, s.Problems...)
		if e != nil {
			found = append(found, e.Problems...)
		}
	}
	for _, f := range b.families {
		found = b.rebuildPorts(f, old, s, e, found)
		f.setHealth(name, s, e)
	}
	b.setProblems(name, found)
}

// rebuildPorts makes the Services of one family anew, removes those that are gone, and appends what claims were lost.
func (b *builder) rebuildPorts(f *family, old, s *track.Service, e *track.Endpoints, found []Problem) []Problem {
	if old != nil {
		for i := range old.Ports {
			if !hasPort(s, &old.Ports[i]) {
				f.set(old.PortName(&old.Ports[i]), nil)
			}
		}
	}
	if s == nil {
		return found
	}
	var buf []candidate
	for i := range s.Ports {
		p := &s.Ports[i]
		buf = candidates(buf[:0], s, p, f.Family, b.in.Facts)
		found = b.contest(f.Family, s, p, &buf, found)
		f.set(s.PortName(p), b.service(f.Family, s, p, buf, e.Port(p.Name, p.Protocol, f.Family)))
	}
	return found
}

func hasPort(s *track.Service, p *track.ServicePort) bool {
	return s != nil && slices.ContainsFunc(s.Ports, func(x track.ServicePort) bool { return x.Name == p.Name && x.Protocol == p.Protocol })
}

// contest removes the candidates that another Service port gets, and appends a Problem for each.
func (b *builder) contest(fam proxy.Family, s *track.Service, p *track.ServicePort, cs *[]candidate, found []Problem) []Problem {
	*cs = slices.DeleteFunc(*cs, func(c candidate) bool {
		w := b.winner(c.key(fam, p))
		if w.service == s && w.port == p {
			return false
		}
		if lost := lostTo(w, s, p, c, fam); !slices.Contains(found, lost) { // a node port is lost in both families alike
			found = append(found, lost)
		}
		return true
	})
	return found
}

func lostTo(w claim, s *track.Service, p *track.ServicePort, c candidate, fam proxy.Family) Problem {
	field := map[proxy.Kind]string{
		proxy.ClusterIP: "spec.clusterIPs", proxy.ExternalIP: "spec.externalIPs", proxy.LoadBalancerIP: "status.loadBalancer.ingress",
		proxy.NodePort: "spec.ports[name=" + strconv.Quote(p.Name) + "].nodePort",
	}[c.kind]
	why := "older, or first by name"
	if w.kind == proxy.ClusterIP && c.kind != proxy.ClusterIP {
		why = "a ClusterIP, which comes first"
	}
	return Problem{Service: s.Name, Field: field, Value: c.key(fam, p).FrontendKey.String(),
		Remedy: "is served for " + w.service.PortName(w.port).String() + " (" + why + "); give one of the two another address or port"}
}

// set puts a Service into the State, or removes it if it is nil. A Service that did not change keeps its pointer.
func (f *family) set(name proxy.ServicePortName, s *proxy.Service) {
	old, had := f.services.Get(name)
	switch {
	case !had && s == nil, had && s != nil && equal(old, s):
		return
	case s == nil:
		f.services.Delete(name)
	default:
		f.services.Set(name, s)
	}
	f.noLocal.add(old, -1)
	f.noLocal.add(s, +1)
}

func (n *NoLocal) add(s *proxy.Service, sign int) {
	if s != nil && s.NoLocalInternal {
		n.Internal += sign
	}
	if s != nil && s.NoLocalExternal {
		n.External += sign
	}
}

// setHealth keeps what the health-check node port of a Service answers; s is nil if the Service is gone.
func (f *family) setHealth(name proxy.ServiceName, s *track.Service, e *track.Endpoints) {
	if s == nil || s.HealthCheckNodePort == 0 || !s.ClusterIP(f.Family).IsValid() || len(s.Ports) == 0 {
		f.health.Delete(name)
		return
	}
	h := proxy.HealthCheck{Port: s.HealthCheckNodePort, LocalEndpoints: localReady(e, f.Family)}
	if old, ok := f.health.Get(name); !ok || old != h {
		f.health.Set(name, h)
	}
}

func (b *builder) setProblems(name proxy.ServiceName, found []Problem) {
	if len(found) == 0 {
		b.problems.Delete(name)
		return
	}
	if old, _ := b.problems.Get(name); !slices.Equal(old, found) {
		b.problems.Set(name, found)
	}
}

// service makes one Service; nil if it has no address left that is its own.
func (b *builder) service(fam proxy.Family, s *track.Service, p *track.ServicePort, cs []candidate, eps []track.Endpoint) *proxy.Service {
	if len(cs) == 0 {
		return nil
	}
	r := reachOf(eps)
	out := &proxy.Service{Name: s.PortName(p), Affinity: s.Affinity, Serving: serving(eps)}
	out.Frontends = frontends(s, cs, b.in.Facts, internalActions(s, r, b.in.Facts, fam), externalActions(s, r, b.in.Facts, fam))
	var used [2]bool
	for i := range out.Frontends {
		for _, a := range out.Frontends[i].Actions {
			used[a.Pool] = used[a.Pool] || a.Verdict == proxy.Forward
		}
	}
	if used[proxy.Cluster] {
		out.Cluster = clusterPool(eps, b.in.Facts)
	}
	if used[proxy.Local] {
		out.Local = localPool(eps)
	}
	elsewhere := r.anywhere && !r.local
	out.NoLocalInternal = elsewhere && s.InternalLocal && cs[0].kind == proxy.ClusterIP
	out.NoLocalExternal = elsewhere && s.ExternalLocal && cs[len(cs)-1].kind != proxy.ClusterIP
	return out
}

// frontends gives each candidate its actions. Source ranges hold for load-balancer addresses alone, one that is the ClusterIP
// too included.
func frontends(s *track.Service, cs []candidate, f *Facts, internal, external actions) []proxy.Frontend {
	out := make([]proxy.Frontend, len(cs))
	for i, c := range cs {
		out[i] = proxy.Frontend{Kind: c.kind, Addr: c.addr, Port: c.port, Actions: external}
		if c.kind == proxy.ClusterIP {
			out[i].Actions = internal
		}
		if !slices.Contains(s.LoadBalancerIPs, c.addr) {
			continue
		}
		if s.SourceRangesUnreadable { // nobody is known to be allowed
			out[i].Actions = all(proxy.Action{Verdict: proxy.Drop})
			continue
		}
		out[i].AllowedSources = allowedSources(s.SourceRanges, c.addr, f.NodeIPs)
	}
	return out
}
