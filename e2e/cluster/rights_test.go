package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/e2e/cluster/plane"
	"turnout/proxy"
)

// TestLeastPrivilege reads in the audit log what the proxy asked for: that is a part of the rights of the role system:node-proxier, and
// nothing was refused. (Nothing may be refused in any other test either: see cluster.judge.)
func TestLeastPrivilege(t *testing.T) {
	s := ownScene(t)
	// Two Services want the same address: that is told as an event.
	s.create(full("one", externalIP("192.168.60.9")), "pod-2")
	s.create(full("two", externalIP("192.168.60.9")), "pod-2")
	s.follow()
	role, err := s.plane.Admin.RbacV1().ClusterRoles().Get(s.ctx, "system:node-proxier", metav1.GetOptions{})
	must(t, err)
	allowed := map[string]bool{}
	for _, rule := range role.Rules {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				allowed[verb+" "+resource] = true
			}
		}
	}
	seen := map[string]bool{}
	eventually(t, "an event was written", func() string {
		requests, err := s.plane.Requests(s.user)
		must(t, err)
		for _, r := range requests {
			seen[r.Verb+" "+r.Resource] = true
		}
		if !seen["create events"] {
			return fmt.Sprint(slices.Sorted(maps.Keys(seen)))
		}
		return ""
	})
	for what := range seen {
		if !allowed[what] {
			t.Errorf("the proxy asked for %q, which the role does not have: %v", what, slices.Sorted(maps.Keys(allowed)))
		}
	}
	for _, resource := range []string{"services", "endpointslices", "servicecidrs", "nodes"} {
		if !seen["watch "+resource] {
			t.Errorf("the proxy does not watch %s: %v", resource, slices.Sorted(maps.Keys(seen)))
		}
	}
	events, err := s.plane.Admin.EventsV1().Events(s.ns).List(s.ctx, metav1.ListOptions{})
	must(t, err)
	for _, e := range events.Items {
		if e.Regarding.Kind == "Service" && e.Regarding.Name == "two" && e.Type == v1.EventTypeWarning && strings.Contains(e.Note, "192.168.60.9") {
			return
		}
	}
	t.Errorf("no event names the address: %v", events.Items)
}

func externalIP(a string) part { return func(s *v1.Service) { s.Spec.ExternalIPs = []string{a} } }

// limited are the rights of a service proxy without those to one resource.
func limited(without string) []rbac.PolicyRule {
	var rules []rbac.PolicyRule
	for group, resources := range map[string][]string{"": {"services", "nodes"}, "discovery.k8s.io": {"endpointslices"}, "networking.k8s.io": {"servicecidrs"}} {
		for _, resource := range resources {
			if resource != without {
				rules = append(rules, rbac.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: []string{"get", "list", "watch"}})
			}
		}
	}
	if without == "events" {
		return rules
	}
	return append(rules, rbac.PolicyRule{APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "patch", "update"}})
}

// TestForbidden withholds the right to one resource after the other. The log must name it and what it takes; where the rest works without
// it, it must work; and once the right is granted, the process that runs makes use of it.
func TestForbidden(t *testing.T) {
	c := own(t)
	c.mayBeForbidden = func(plane.Request) bool { return true }
	roles := c.plane.Admin.RbacV1().ClusterRoles()
	grant := func(without string) {
		t.Helper()
		role := &rbac.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "limited"}, Rules: limited(without)}
		_, err := roles.Update(c.ctx, role, metav1.UpdateOptions{})
		must(t, err)
	}
	_, err := roles.Create(c.ctx, &rbac.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "limited"}}, metav1.CreateOptions{})
	must(t, err)
	_, err = c.plane.Admin.RbacV1().ClusterRoleBindings().Create(c.ctx, &rbac.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "limited"},
		RoleRef:    rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: "limited"},
		Subjects:   []rbac.Subject{{Kind: rbac.UserKind, APIGroup: rbac.GroupName, Name: "limited"}},
	}, metav1.CreateOptions{})
	must(t, err)
	kubeconfig, err := c.plane.Kubeconfig("limited", plane.Identity{User: "limited"})
	must(t, err)
	for _, row := range []struct {
		resource string
		needed   bool // nothing can work without it
	}{{"servicecidrs", false}, {"events", false}, {"nodes", false}, {"endpointslices", true}, {"services", true}} {
		t.Run(row.resource, func(t *testing.T) {
			grant(row.resource)
			before := logLength(c)
			c.withoutRight(t, kubeconfig, row.resource, row.needed)
			grant("")
			must(t, c.ready(c.proxy))
			s := c.scene(t)
			service := s.create(full("after"), "pod-2")
			s.follow()
			s.reached(service, "with all rights", "pod-2")
			must(t, c.proxy.Stop(patience))
			if log := c.proxy.Log()[before:]; strings.Count(log, row.resource) > 40 {
				t.Errorf("the log repeats itself:\n%s", log)
			}
		})
	}
}

func logLength(c *cluster) int {
	if c.proxy == nil {
		return 0
	}
	return len(c.proxy.Log())
}

// withoutRight starts the proxy and sees what it says and does.
func (c *cluster) withoutRight(t *testing.T, kubeconfig, resource string, needed bool) {
	t.Helper()
	before := logLength(c)
	p, err := c.launch(kubeconfig, "limited")
	must(t, err)
	if resource == "events" {
		must(t, c.ready(p))
		// Something to tell: two Services want the same address.
		s := c.scene(t)
		s.create(full("one", externalIP("192.168.60.9")), "pod-2")
		s.create(full("two", externalIP("192.168.60.9")), "pod-2")
	}
	eventually(t, "the log names what is forbidden", func() string {
		for line := range strings.Lines(p.Log()[before:]) {
			if strings.Contains(line, "forbidden") && strings.Contains(line, resource) {
				t.Logf("%s", line)
				return ""
			}
		}
		return p.Log()[before:]
	})
	if needed {
		if status, _, err := c.get(healthServer, "/readyz"); err == nil && status == 200 {
			t.Errorf("ready without %s", resource)
		}
		return
	}
	must(t, c.ready(p))
	s := c.scene(t)
	service := s.create(full("meanwhile"), "pod-2")
	s.follow()
	s.reached(service, "without the right", "pod-2")
	s.probe(t, probe{"load-balancer IP without the right", outside, 0, proxy.TCP, s.address(service, proxy.LoadBalancerIP, proxy.IPv4, proxy.TCP), masqueraded("pod-2")})
}
