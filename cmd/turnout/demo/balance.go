package demo

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// answer is how long an answer may take: long enough for a busy machine, and less than the second after which TCP tries again, so that no
// packet is lost unseen.
const answer = 900 * time.Millisecond

// balancing shows that connections are spread evenly over all endpoints.
func (d *demo) balancing(ctx context.Context) error {
	all := d.podsOf("")
	for _, row := range []struct {
		from     string
		what     string
		protocol proxy.Protocol
		to       netip.AddrPort
		servers  []string
		attempts int
	}{
		{"client", "ClusterIP", proxy.TCP, web, all, 1000},
		{"client", "ClusterIP, IPv6", proxy.TCP, web6, all, 500},
		{"client", "ClusterIP, UDP", proxy.UDP, dns, all, 500},
		{"pod-2", "ClusterIP, UDP, IPv6", proxy.UDP, dns6, all, 500},
		{"client", "NodePort, policy Local", proxy.TCP, shopNodePort, []string{"pod-2", "pod-3"}, 500},
		{"pod-1", "ClusterIP, policy Local", proxy.TCP, agent, []string{"pod-3"}, 100},
	} {
		d.progress("connecting to %s", row.to)
		r := d.lab.Host(row.from).Load(ctx, row.protocol, row.to, lab.LoadOptions{Attempts: row.attempts, Timeout: answer})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		problem := unfair(r, row.servers, row.attempts)
		d.check(problem == "", "%s -> %s %s (%s): %d connections%s", row.from, row.to, row.protocol, row.what, row.attempts, problem)
		d.bars(r.Servers)
	}
	return nil
}

// unfair says how a load was not spread evenly over some servers, "" if it was. Chance is given six standard deviations, which
// it exceeds once in a few hundred million times.
func unfair(r lab.LoadReport, servers []string, attempts int) string {
	if r.Failed > 0 {
		return fmt.Sprintf(", %d failed, such as: %v", r.Failed, r.Errors[0])
	}
	p := 1 / float64(len(servers))
	mean := float64(attempts) * p
	tolerance := 6 * math.Sqrt(mean*(1-p))
	for name, n := range r.Servers {
		if !slices.Contains(servers, name) {
			return fmt.Sprintf(", %d to %s", n, name)
		}
	}
	for _, name := range servers {
		if n := r.Servers[name]; math.Abs(float64(n)-mean) > tolerance {
			return fmt.Sprintf(", of which %s got %d", name, n)
		}
	}
	return ""
}

// affinity shows that each client stays with one endpoint, and that clients are spread all the same.
// A client is known once its first packet has left the node, so connections are made one after the other.
func (d *demo) affinity(ctx context.Context) error {
	const attempts = 40
	sources := d.lab.Client().Addrs[:3]
	for _, source := range sources {
		r := d.lab.Client().Load(ctx, proxy.TCP, cart, lab.LoadOptions{Attempts: attempts, Parallel: 1, Source: source, Timeout: answer})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d.check(r.Failed == 0 && len(r.Servers) == 1, "%s -> %s TCP: %d connections all to %s", source, cart, attempts, names(r))
	}
	r := d.lab.Host("pod-1").Load(ctx, proxy.TCP, cart, lab.LoadOptions{Attempts: attempts, Parallel: 1, Timeout: answer})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	d.check(r.Failed == 0 && len(r.Servers) == 1, "pod-1 -> %s TCP: %d connections all to %s", cart, attempts, names(r))
	return nil
}

// names lists the servers of a report, and its first failure.
func names(r lab.LoadReport) string {
	s := strings.Join(slices.Sorted(maps.Keys(r.Servers)), " and ")
	if len(r.Errors) > 0 {
		s += fmt.Sprintf("; %d failed, such as: %v", r.Failed, r.Errors[0])
	}
	return s
}
