package sync

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr/funcr"
	"k8s.io/klog/v2"

	"turnout/conntrack"
	"turnout/proxy"
	"turnout/proxy/hamt"
	"turnout/proxy/proxytest"
)

// kernel is a proxy.Backend that keeps everything in memory, and what the kernel holds apart from what is believed of it: what others
// destroy stays destroyed until a rebuild.
type kernel struct {
	family proxy.Family

	mu       sync.Mutex // guards what follows
	believed *proxy.State
	services map[proxy.ServicePortName]*proxy.Service
	node     *proxy.Node
	refused  map[proxy.ServicePortName]error
	left     map[proxy.ServicePortName]bool // left out because they are refused
	took     time.Duration                  // how long an Apply takes
	applies  []apply
	problems []error
}

// apply is one call of Apply that reached the kernel.
type apply struct {
	at         time.Time
	full       bool
	operations int
}

func newKernel(f proxy.Family) *kernel {
	return &kernel{family: f, refused: map[proxy.ServicePortName]error{}}
}

// Apply is part of proxy.Backend.
func (k *kernel) Apply(_ context.Context, s *proxy.State) (proxy.Report, error) {
	start := time.Now()
	k.mu.Lock()
	took := k.took
	k.mu.Unlock()
	time.Sleep(took)

	k.mu.Lock()
	defer k.mu.Unlock()
	if s.Family != k.family {
		return proxy.Report{}, fmt.Errorf("State of %s for the Backend of %s", s.Family, k.family)
	}
	if err := proxytest.Check(s); err != nil {
		k.problems = append(k.problems, err)
	}
	report := proxy.Report{Full: k.believed == nil}
	before := k.believed
	if report.Full {
		before, k.services, k.left = &proxy.State{}, map[proxy.ServicePortName]*proxy.Service{}, map[proxy.ServicePortName]bool{}
	}
	if before.Node != s.Node {
		k.node = s.Node
		report.Operations++
	}
	for _, c := range hamt.Diff(before.Services, s.Services, func(a, b *proxy.Service) bool { return a == b }) {
		delete(k.left, c.Key)
		k.put(c.Key, c.New)
		report.Operations++
	}
	for name := range k.left {
		service, _ := s.Services.Get(name)
		k.put(name, service)
	}
	for name := range k.left {
		report.Rejected = append(report.Rejected, proxy.Rejection{Name: name, Err: k.refused[name]})
	}
	k.believed = s
	k.applies = append(k.applies, apply{start, report.Full, report.Operations})
	return report, nil
}

// put programs a Service, or removes it if it is nil, or leaves it out if it is to be refused.
func (k *kernel) put(name proxy.ServicePortName, s *proxy.Service) {
	delete(k.services, name)
	delete(k.left, name)
	switch {
	case s == nil:
	case k.refused[name] != nil:
		k.left[name] = true
	default:
		k.services[name] = s
	}
}

// Forget is part of proxy.Backend.
func (k *kernel) Forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.believed = nil
}

// Cleanup is part of proxy.Backend.
func (k *kernel) Cleanup(context.Context) error {
	k.Forget()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.services, k.node = nil, nil
	return nil
}

// destroy is what another process does to the table.
func (k *kernel) destroy() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.services, k.node = map[proxy.ServicePortName]*proxy.Service{}, nil
}

func (k *kernel) refuse(name string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		delete(k.refused, proxytest.Name(name))
		return
	}
	k.refused[proxytest.Name(name)] = err
}

// slow makes each Apply take so long.
func (k *kernel) slow(d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.took = d
}

// calls returns the applies so far.
func (k *kernel) calls() []apply {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.applies)
}

// holds writes what the kernel holds.
func (k *kernel) holds() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.node == nil {
		return "nothing"
	}
	s := &proxy.State{Family: k.family, Node: k.node}
	for name, service := range k.services {
		s.Services = s.Services.Set(name, service)
	}
	return text(s)
}

// text writes a State without its health checks, which are not the kernel's.
func text(s *proxy.State) string {
	return whole(&proxy.State{Family: s.Family, Node: s.Node, Services: s.Services})
}

func whole(s *proxy.State) string {
	var b strings.Builder
	_ = proxy.WriteText(&b, s) // a Builder takes everything
	return b.String()
}

// faulty makes a Backend fail now and then, always the same way for a seed. As a real one it then believes nothing any more.
type faulty struct {
	proxy.Backend

	mu       sync.Mutex // guards what follows
	rng      *rand.Rand
	rate     float64
	attempts []time.Time
	failed   int
}

var errFaulty = errors.New("no buffer space available")

// Apply is part of proxy.Backend.
func (f *faulty) Apply(ctx context.Context, s *proxy.State) (proxy.Report, error) {
	f.mu.Lock()
	f.attempts = append(f.attempts, time.Now())
	fail := f.rng.Float64() < f.rate
	if fail {
		f.failed++
	}
	f.mu.Unlock()
	if fail {
		f.Forget()
		return proxy.Report{}, errFaulty
	}
	return f.Backend.Apply(ctx, s)
}

func (f *faulty) setRate(r float64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rate = r
}

// failures is how often Apply failed so far.
func (f *faulty) failures() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

// tries returns when Apply was called so far.
func (f *faulty) tries() []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.attempts)
}

// cleaner is a FlowCleaner that remembers what it was told, and fails now and then.
type cleaner struct {
	mu      sync.Mutex // guards what follows
	rng     *rand.Rand
	rate    float64
	takes   time.Duration
	addrs   []netip.Addr
	changes []conntrack.Change
	times   []time.Time
}

// Clean is part of FlowCleaner.
func (c *cleaner) Clean(ctx context.Context, addrs []netip.Addr, changed []conntrack.Change) (conntrack.Result, error) {
	c.mu.Lock()
	c.times = append(c.times, time.Now())
	c.addrs = addrs
	c.changes = append(c.changes, changed...)
	r, fail := conntrack.Result{Ran: true, Duration: c.takes}, c.rng.Float64() < c.rate
	c.mu.Unlock()
	select {
	case <-time.After(r.Duration):
	case <-ctx.Done():
		return r, ctx.Err()
	}
	if fail {
		return r, errors.New("dump interrupted")
	}
	r.Deleted = len(changed)
	return r, nil
}

// set makes Clean take so long, and this part of the calls fail.
func (c *cleaner) set(takes time.Duration, rate float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.takes, c.rate = takes, rate
}

// calls returns when Clean was called so far, and the addresses of the last call.
func (c *cleaner) calls() ([]time.Time, []netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.times), c.addrs
}

// take returns the changes since the last call.
func (c *cleaner) take() (out []conntrack.Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out, c.changes = c.changes, nil
	return out
}

// recorded is a list of lines that several goroutines append to.
type recorded struct {
	mu    sync.Mutex // guards what follows
	lines []string
}

func (r *recorded) add(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
}

// take returns the lines since the last call.
func (r *recorded) take() (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out, r.lines = r.lines, nil
	return out
}

// with returns the lines since the last call that have a text in them.
func (r *recorded) with(text string) []string {
	return slices.DeleteFunc(r.take(), func(l string) bool { return !strings.Contains(l, text) })
}

// Service is part of Events.
func (r *recorded) Service(name proxy.ServiceName, reason, note string) {
	r.add(name.String() + " " + reason + ": " + note)
}

// logger records what is logged, of every verbosity.
func (r *recorded) logger() klog.Logger {
	return funcr.New(func(_, args string) { r.add(args) }, funcr.Options{Verbosity: 10})
}

// localAddrs are the machine's addresses.
type localAddrs struct {
	mu    sync.Mutex // guards what follows
	addrs []netip.Addr
	mine  func() // called by each reading
}

func (l *localAddrs) of(f proxy.Family) []netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mine != nil {
		l.mine()
	}
	return proxytest.AddrsOf(f, l.addrs)
}

func (l *localAddrs) set(addrs ...netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addrs = addrs
}

func (l *localAddrs) onRead(fn func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mine = fn
}

// names are the Services that a kernel holds.
func (k *kernel) names() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []string
	for name := range maps.Keys(k.services) {
		out = append(out, name.String())
	}
	slices.Sort(out)
	return out
}
