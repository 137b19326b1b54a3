package desired

import (
	"cmp"
	"net/netip"
	"slices"

	"turnout/proxy"
	"turnout/proxy/hamt"
	"turnout/proxy/track"
)

// claims has, for each address and port, the Services that ask for it, the one that gets it first.
type claims = hamt.Map[claimKey, []claim]

// claimKey is a FrontendKey; the family tells the node ports of the two apart.
type claimKey struct {
	family proxy.Family
	proxy.FrontendKey
}

// claim is one port of a Service that asks for an address.
type claim struct {
	service *track.Service
	port    *track.ServicePort
	kind    proxy.Kind
}

// compare orders the claims to one address: a ClusterIP first, since the API server hands these out to one Service each while
// anybody may write any address into externalIPs; then the older Service, so that a newcomer takes nothing away; then by name.
func (c claim) compare(o claim) int {
	return cmp.Or(
		cmp.Compare(min(c.kind, 1), min(o.kind, 1)),
		cmp.Compare(c.service.Created, o.service.Created),
		c.service.PortName(c.port).Compare(o.service.PortName(o.port)))
}

// candidate is an address of a Service port that might become a Frontend.
type candidate struct {
	kind proxy.Kind
	addr netip.Addr // invalid for a NodePort
	port uint16
}

// candidates appends what a Service port asks for in one family, sorted like Frontends, each address once: what is a ClusterIP
// or a load-balancer address is not an external IP as well, for source ranges must hold for it.
func candidates(out []candidate, s *track.Service, p *track.ServicePort, fam proxy.Family, f *Facts) []candidate {
	ip := s.ClusterIP(fam)
	if !ip.IsValid() {
		return out
	}
	out = append(out, candidate{proxy.ClusterIP, ip, p.Port})
	if p.NodePort != 0 {
		out = append(out, candidate{kind: proxy.NodePort, port: p.NodePort})
	}
	if f.ExternalIPs {
		for _, a := range s.ExternalIPs {
			if proxy.FamilyOf(a) == fam && a != ip && !slices.Contains(s.LoadBalancerIPs, a) {
				out = append(out, candidate{proxy.ExternalIP, a, p.Port})
			}
		}
	}
	for _, a := range s.LoadBalancerIPs {
		if proxy.FamilyOf(a) == fam && a != ip {
			out = append(out, candidate{proxy.LoadBalancerIP, a, p.Port})
		}
	}
	return out
}

func (c candidate) key(fam proxy.Family, p *track.ServicePort) claimKey {
	return claimKey{fam, proxy.FrontendKey{Addr: c.addr, Port: c.port, Protocol: p.Protocol}}
}

// claimed is one entry of the claims.
type claimed struct {
	key claimKey
	claim
}

// claimsOf lists what a Service asks for; nothing if it is nil.
func (b *builder) claimsOf(s *track.Service) []claimed {
	if s == nil {
		return nil
	}
	var out []claimed
	var buf []candidate
	for _, f := range b.families {
		for i := range s.Ports {
			p := &s.Ports[i]
			buf = candidates(buf[:0], s, p, f.Family, b.in.Facts)
			for _, c := range buf {
				out = append(out, claimed{c.key(f.Family, p), claim{s, p, c.kind}})
			}
		}
	}
	return out
}

// replaceClaims puts the claims of one version of a Service in the place of another's; either may be nil. Whoever claims the
// same must be rebuilt: it may win or lose, or its problem names another winner.
func (b *builder) replaceClaims(old, s *track.Service) {
	for _, c := range b.claimsOf(old) {
		b.unclaim(c.key, c.service.Name)
	}
	for _, c := range b.claimsOf(s) {
		list, _ := b.claims.Get(c.key)
		list = append(slices.Clone(list), c.claim)
		if len(list) > 1 {
			slices.SortFunc(list, claim.compare)
			b.markClaimants(list)
		}
		b.claims.Set(c.key, list)
	}
}

func (b *builder) unclaim(key claimKey, name proxy.ServiceName) {
	list, _ := b.claims.Get(key)
	if len(list) > 1 {
		b.markClaimants(list)
	}
	list = slices.DeleteFunc(slices.Clone(list), func(c claim) bool { return c.service.Name == name })
	if len(list) == 0 {
		b.claims.Delete(key)
		return
	}
	b.claims.Set(key, list)
}

func (b *builder) markClaimants(list []claim) {
	for _, c := range list {
		b.mark(c.service.Name)
	}
}

// winner returns who gets an address.
func (b *builder) winner(key claimKey) claim {
	list, _ := b.claims.Get(key)
	return list[0]
}
