package compare

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	discovery "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"

	"turnout/e2e/cluster/compare/beside"
	"turnout/proxy/proxytest/lab"
)

// outcome is what became of a connection, as far as it must be the same with both proxies.
type outcome struct {
	result   lab.Result
	endpoint netip.AddrPort
	server   string
	seen     netip.Addr // the client's address as the server saw it
}

// String returns "pod-1 10.244.1.2:8080, which saw 192.168.50.100", or the result if nobody answered.
func (o outcome) String() string {
	if o.result != lab.Connected {
		return o.result.String()
	}
	return fmt.Sprintf("%s %s, which saw %s", o.server, o.endpoint, o.seen)
}

// outcomes counts what became of several connections.
type outcomes map[outcome]int

// String lists the outcomes, without their numbers.
func (s outcomes) String() string {
	var texts []string
	for o := range s {
		texts = append(texts, o.String())
	}
	slices.Sort(texts)
	return strings.Join(texts, " | ")
}

// same tells whether the outcomes are the same, however often each of them is there.
func (s outcomes) same(other outcomes) bool {
	for o := range s {
		if other[o] == 0 {
			return false
		}
	}
	return len(s) == len(other)
}

// result is the one result that all connections came to, lab.Failed if they did not.
func (s outcomes) result() lab.Result {
	results := map[lab.Result]bool{}
	for o := range s {
		results[o.result] = true
	}
	if len(results) != 1 {
		return lab.Failed
	}
	for r := range results {
		return r
	}
	return lab.Failed
}

// answered tells whether a server answered any of the connections: a busy machine may lose others.
func (s outcomes) answered() bool {
	for o := range s {
		if o.result == lab.Connected {
			return true
		}
	}
	return false
}

// difference is a packet that the two proxies treat differently.
type difference struct {
	packet
	turnout, upstream outcomes
	names             [2]string // of the sides
	mode              string
}

func (d *difference) String() string {
	return fmt.Sprintf("%v:\n\t%-10s %v\n\t%-10s %v", d.packet, d.names[1], d.upstream, d.names[0], d.turnout)
}

const (
	// few connections are made at first: a difference of the pools of endpoints, which all packets of an origin have in common, shows
	// with some packet. many are made until the outcomes are the same, before more careful ones.
	few, many = 6, 60
	// hasty is long enough for an idle machine; calm for a busy one.
	hasty, calm = 250 * time.Millisecond, time.Second
	// parallel packets are sent at the same time; gently, when an answer must not be lost.
	parallel, gently = 96, 4
)

// compare sends packets in both labs and reports those that came to something else, except for differences that are allowed. It
// returns how many connections were answered, and how many were not, for the caller to see that something was compared.
func (p *pair) compare(t *testing.T, list []packet) (answered, unanswered int) {
	t.Helper()
	const most = 20
	services := map[string]bool{}
	differ, answered, unanswered := p.differences(t, list)
	for i, d := range differ {
		if i == most {
			t.Errorf("and %d more", len(differ)-most)
			break
		}
		t.Error(d)
		services[d.service] = true
	}
	p.describe(t, services)
	return answered, unanswered
}

// differences sends packets in both labs and returns those that came to something else, except for differences that are allowed.
func (p *pair) differences(t *testing.T, list []packet) (differ []*difference, answered, unanswered int) {
	t.Helper()
	m := newModel(t, p)
	// A client that connects to a Service with affinity by two ways at the same time may be sent to two endpoints.
	groups := map[string][]packet{}
	for i, packet := range list {
		key := fmt.Sprint(i)
		if packet.sticky {
			key = packet.service + " " + packet.Source.String()
		}
		groups[key] = append(groups[key], packet)
	}
	var mu sync.Mutex // guards the results
	var seem []*difference
	var wait sync.WaitGroup
	slots := make(chan struct{}, parallel)
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			for _, packet := range groups[key] {
				d := p.probe(packet, m, hasty)
				mu.Lock()
				if d.turnout.answered() {
					answered++
				} else {
					unanswered++
				}
				if !p.agree(d, m) {
					seem = append(seem, d)
				}
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	return p.confirm(t, seem, m), answered, unanswered
}

// confirm tries packets again that seem to differ, now a few at a time and with patience. What is meant to be is counted.
func (p *pair) confirm(t *testing.T, seem []*difference, m model) (differ []*difference) {
	t.Helper()
	const enough = 25
	slices.SortFunc(seem, func(a, b *difference) int { return cmp.Compare(a.String(), b.String()) })
	meant := map[string]int{}
	var mu sync.Mutex // guards differ
	var wait sync.WaitGroup
	slots := make(chan struct{}, gently)
	for i, d := range seem {
		if reason := allowed(d); reason != "" {
			meant[reason]++
			continue
		}
		slots <- struct{}{}
		mu.Lock()
		told := len(differ)
		mu.Unlock()
		if told >= enough {
			t.Logf("%d packets seem to differ; %d of the first %d do, and no more were looked at", len(seem), told, i)
			break
		}
		wait.Go(func() {
			defer func() { <-slots }()
			if d := p.probe(d.packet, m, calm); !p.agree(d, m) {
				mu.Lock()
				defer mu.Unlock()
				differ = append(differ, d)
			}
		})
	}
	wait.Wait()
	for _, reason := range slices.Sorted(maps.Keys(meant)) {
		t.Logf("%d packets differ as docs/differences.md says: %s", meant[reason], reason)
	}
	return differ
}

// describe logs some Services and their EndpointSlices, as they are now.
func (p *pair) describe(t *testing.T, services map[string]bool) {
	t.Helper()
	for _, o := range p.Objects() {
		name := o.GetName()
		if e, ok := o.(*discovery.EndpointSlice); ok {
			name = e.Labels[discovery.LabelServiceName]
		}
		if !services[o.GetNamespace()+"/"+name] {
			continue
		}
		text, err := yaml.Marshal(o)
		if err != nil {
			t.Error(err)
		}
		t.Logf("%T:\n%s", o, text)
	}
}

// probe connects in both labs until the outcomes are the same or are not going to be.
func (p *pair) probe(packet packet, m model, timeout time.Duration) *difference {
	d := &difference{packet: packet, turnout: outcomes{}, upstream: outcomes{}, names: [2]string{p.turnout.Name, p.upstream.Name}, mode: string(p.settings.mode())}
	for n := 0; n < many; n += few {
		var wait sync.WaitGroup
		wait.Go(func() { sample(p.turnout, packet, d.turnout, timeout) })
		sample(p.upstream, packet, d.upstream, timeout)
		wait.Wait()
		// Only which of several endpoints answers is left to chance.
		chance := d.turnout.result() == lab.Connected && d.upstream.result() == lab.Connected
		if packet.sticky || p.agree(d, m) && (timeout == hasty || n > 0) || !chance && n >= 2*few {
			break
		}
	}
	return d
}

// sample adds the outcomes of some connections. One that is refused or lost is not tried again: that is not left to chance.
func sample(s *beside.Side, p packet, into outcomes, timeout time.Duration) {
	for range few {
		options := lab.DialOptions{Timeout: timeout, Source: netip.AddrPortFrom(p.Source, 0)}
		to := netip.AddrPortFrom(p.Destination, p.Port)
		got := s.Lab.Host(p.From).Dial(p.Protocol, to, options)
		for again := 0; got.Result == lab.Timeout && timeout == calm && again < 3; again++ {
			// A busy machine loses packets by itself.
			got = s.Lab.Host(p.From).Dial(p.Protocol, to, options)
		}
		o := outcome{result: got.Result}
		if got.Result == lab.Connected {
			o = outcome{got.Result, got.Endpoint, got.Server, got.SeenSource}
		}
		into[o]++
		if got.Result != lab.Connected {
			return
		}
	}
}

// agree tells whether what became of a packet is the same. With session affinity each proxy chose an endpoint that it stays with: they
// agree if each did so, and chose among those that there are.
func (p *pair) agree(d *difference, m model) bool {
	if d.turnout.same(d.upstream) {
		return true
	}
	if !d.sticky {
		return false
	}
	for _, s := range []outcomes{d.turnout, d.upstream} {
		if len(s) != 1 {
			return false
		}
		for o := range s {
			if o.result != lab.Connected || !m.allows(d.packet, o) {
				return false
			}
		}
	}
	return true
}
