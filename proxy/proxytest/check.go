package proxytest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"turnout/proxy"
)

// Check returns everything in a State that breaks what the model promises: order, uniqueness, families, pools that are
// empty exactly if no Action needs them, and one owner for each frontend.
func Check(s *proxy.State) error {
	c := checker{family: s.Family, owners: map[proxy.FrontendKey]proxy.ServicePortName{}}
	c.node(s.Node)
	for name, service := range s.Services.All() {
		c.where = name.String()
		if service.Name != name {
			c.failf("is called %s inside", service.Name)
		}
		c.service(service)
	}
	return errors.Join(c.errs...)
}

type checker struct {
	family proxy.Family
	owners map[proxy.FrontendKey]proxy.ServicePortName
	where  string
	errs   []error
}

func (c *checker) failf(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf("%s: %s", c.where, fmt.Sprintf(format, args...)))
}

func (c *checker) node(n *proxy.Node) {
	c.where = "node"
	if n == nil {
		c.failf("is nil")
		return
	}
	c.prefixes("service CIDRs", n.ServiceCIDRs)
	c.prefixes("prefixes of local pods", n.LocalPods.Prefixes)
	if !ascending(n.NodePorts.Addrs, netip.Addr.Compare) {
		c.failf("NodePort addresses %v are not sorted and unique", n.NodePorts.Addrs)
	}
	for _, a := range n.NodePorts.Addrs {
		c.addr("NodePort address", a)
	}
	if m := n.MasqueradeMark; m == 0 || m&(m-1) != 0 {
		c.failf("masquerade mark %#x is not one bit", m)
	}
}

func (c *checker) service(s *proxy.Service) {
	if !ascending(s.Serving, netip.AddrPort.Compare) {
		c.failf("serving endpoints %v are not sorted and unique", s.Serving)
	}
	needed := map[proxy.Pool]bool{}
	for i := range s.Frontends {
		c.frontend(s, &s.Frontends[i])
		for _, a := range s.Frontends[i].Actions {
			if a.Verdict == proxy.Forward {
				needed[a.Pool] = true
			} else if a.Pool != 0 || a.Masquerade {
				c.failf("action %+v does not forward but says how", a)
			}
		}
	}
	if !slices.IsSortedFunc(s.Frontends, compareFrontends) {
		c.failf("frontends are not sorted")
	}
	for _, pool := range []proxy.Pool{proxy.Cluster, proxy.Local} {
		c.pool(s, pool, needed[pool])
	}
}

func (c *checker) frontend(s *proxy.Service, f *proxy.Frontend) {
	if f.Kind == proxy.NodePort && f.Addr.IsValid() {
		c.failf("NodePort with the address %s", f.Addr)
	}
	if f.Kind != proxy.NodePort {
		c.addr(f.Kind.String(), f.Addr)
	}
	if f.Port == 0 {
		c.failf("%s with port 0", f.Kind)
	}
	c.prefixes("allowed sources", f.AllowedSources)
	key := s.Key(f)
	if owner, ok := c.owners[key]; ok {
		c.failf("frontend %s belongs to %s too", key, owner)
	}
	c.owners[key] = s.Name
}

func (c *checker) pool(s *proxy.Service, pool proxy.Pool, needed bool) {
	endpoints := s.Pool(pool)
	if needed != (len(endpoints) > 0) {
		c.failf("pool %s is needed: %t, but has %d endpoints", pool, needed, len(endpoints))
	}
	if !ascending(endpoints, compareEndpoints) {
		c.failf("pool %s is not sorted and unique: %v", pool, endpoints)
	}
	for _, e := range endpoints {
		c.addr("endpoint", e.Addr.Addr())
		if pool == proxy.Local && !e.Local {
			c.failf("endpoint %s in pool local is not on this node", e.Addr)
		}
		if !slices.Contains(s.Serving, e.Addr) {
			c.failf("endpoint %s in pool %s is not serving", e.Addr, pool)
		}
	}
}

func (c *checker) addr(what string, a netip.Addr) {
	if !a.IsValid() || a.BitLen() != c.family.Bits() || a.Zone() != "" {
		c.failf("%s %s is no %s address", what, a, c.family)
	}
}

func (c *checker) prefixes(what string, list []netip.Prefix) {
	for i, p := range list {
		c.addr(what, p.Addr())
		if p != p.Masked() {
			c.failf("%s: %s has host bits", what, p)
		}
		if i > 0 && (comparePrefixes(list[i-1], p) >= 0 || list[i-1].Overlaps(p)) {
			c.failf("%s: %s after %s is out of order or contained", what, p, list[i-1])
		}
	}
}

// ascending tells that a list is sorted without repetition.
func ascending[T any](list []T, compare func(a, b T) int) bool {
	for i := 1; i < len(list); i++ {
		if compare(list[i-1], list[i]) >= 0 {
			return false
		}
	}
	return true
}
