package e2e

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

var (
	killedTimes = flag.Int("killed.times", 100, "how often TestKilledAnywhere kills the proxy")
	killedSeed  = flag.Uint64("killed.seed", 1, "first random number of TestKilledAnywhere")
)

// A victim is a cluster whose proxy is killed again and again.
type victim struct {
	*cluster
	modes []string
	rng   *rand.Rand
	// longest is how long a proxy lives at most.
	longest time.Duration
	// before is what the kernel had before the last start or change, asked what the manifests asked for then.
	before map[place]routing
	asked  map[proxy.Family]routing
	// mode is the one that the proxy was started in, or that its label asks for.
	mode string
	// running is the mode in which the proxy followed everything that there was before; "" if it has just been started.
	running string
	hinted  string // the variant of iptables that the node seems to use
	// seen counts what the kernel had after a kill.
	seen map[string]int
}

// TestKilledAnywhere kills the proxy at random moments while it starts, follows changes, changes modes and removes what kube-proxy left. Each
// time the rules of each mode must be the old ones or the new ones: whole, and gone only when another mode's serve. Clients never notice.
func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	v := &victim{cluster: c, modes: c.switchable(), rng: rand.New(rand.NewPCG(*killedSeed, 0)), seen: map[string]int{}}
	c.serve(c.allPods()...)
	foreign := c.plantForeign()
	c.set(c.stock("pod-1")...)
	v.mode = v.modes[0]
	began := time.Now()
	p := c.startMode(v.mode)
	// Long enough for a start, and for changes after it.
	v.longest = min(max(400*time.Millisecond, time.Since(began)*6/5), time.Duration(*slow)*time.Second)
	v.look()
	var loads []*load
	web := newService(1, "web")
	for host, to := range map[string]netip.AddrPort{"pod-3": c.address(web, proxy.ClusterIP, proxy.IPv6, proxy.TCP), "client": c.address(web, proxy.NodePort, proxy.IPv4, proxy.TCP)} {
		loads = append(loads, startLoad(t, c.Host(host), proxy.TCP, to, lab.LoadOptions{Parallel: 1, Interval: 10 * time.Millisecond}))
	}
	p.kill()
	start := time.Now()
	for round := range *killedTimes {
		if err := v.round(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	t.Logf("killed %d times in %v: %v", *killedTimes, time.Since(start).Round(time.Millisecond), v.seen)
	for _, what := range []string{"as before", "as asked for", "several modes"} {
		if *killedTimes >= 100 && v.seen[what] == 0 {
			t.Errorf("never was a kernel %s: the moments were not random enough", what)
		}
	}
	v.endsIn(v.modes[v.rng.IntN(len(v.modes))])
	if d := cmp.Diff(foreign, c.foreign()); d != "" {
		t.Errorf("rules of others: -before +after\n%s", d)
	}
	for _, l := range loads {
		l.judge()
	}
}

// round starts a proxy in some mode and kills it, and judges what is in the kernel.
func (v *victim) round() error {
	if v.rng.IntN(3) > 0 {
		v.mode = v.modes[v.rng.IntN(len(v.modes))]
	}
	if v.rng.IntN(8) == 0 {
		v.plantKubeProxy()
	}
	changing := v.rng.IntN(3) == 0
	if !changing && v.rng.IntN(2) == 0 {
		v.set(v.shuffled()...)
	}
	if _, variant, _ := strings.Cut(v.mode, "-"); variant != "" && variant != v.hinted {
		v.hinted = variant
		v.hint(variant)
	}
	v.label("")
	v.running = ""
	p, longest := v.launchMode(v.mode), v.longest
	if changing {
		p.follow()
		v.running = v.mode
		longest /= 2 // as what is to be done takes less
		v.look()
		if to := v.another(); to != "" && v.rng.IntN(2) == 0 {
			v.mode, changing = to, false
			name, _, _ := strings.Cut(to, "-")
			v.label(name)
			v.seen["while it runs"]++
		} else {
			v.set(v.shuffled()...)
		}
	}
	wait := time.Duration(v.rng.Int64N(int64(longest)))
	time.Sleep(wait)
	p.kill()
	log := p.log.String()
	if strings.Contains(log, "DATA RACE") || strings.Contains(log, "panic:") {
		return fmt.Errorf("the proxy crashed:\n%s", log)
	}
	if err := v.judge(changing); err != nil {
		return fmt.Errorf("mode %s, killed after %v (changing: %t): %w\n%s", v.mode, wait, changing, err, p.log.tail())
	}
	p.log.mu.Lock()
	p.log.text.Reset() // of 100 logs the last is what a person wants to read
	p.log.mu.Unlock()
	return nil
}

// another is a mode that the running proxy can change to, "" if there is none.
func (v *victim) another() string {
	now, _, _ := strings.Cut(v.mode, "-")
	var can []string
	for _, m := range v.modes {
		if name, variant, _ := strings.Cut(m, "-"); name != now && (variant == "" || variant == v.hinted) {
			can = append(can, m)
		}
	}
	if len(can) == 0 {
		return ""
	}
	return can[v.rng.IntN(len(can))]
}

// shuffled are the shop's Services, web with other pods than before, and others of which some change and some come.
func (v *victim) shuffled() []metav1.Object {
	others := []string{"pod-1", "pod-3", "pod-4", "pod-5"}
	v.rng.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	out := v.stock(others[:v.rng.IntN(len(others)+1)]...)
	for i := 10; i < 22; i++ {
		if v.rng.IntN(3) > 0 {
			out = append(out, v.with(newService(i, fmt.Sprintf("noise-%d", i), sticky(int32(60+v.rng.IntN(3)))), on(others[0]), on(others[1]))...)
		}
	}
	return out
}

// look notes what the kernel has and what the manifests ask for, as what there was before.
func (v *victim) look() {
	v.t.Helper()
	now, err := v.routings()
	if err != nil {
		v.t.Fatal(err)
	}
	v.before, v.asked = now, v.wants()
}

func (v *victim) wants() map[proxy.Family]routing {
	out := map[proxy.Family]routing{}
	for _, f := range proxy.Families {
		out[f] = v.wanted(f)
	}
	return out
}

// judge compares what the kernel has with what it had and with what it should get.
func (v *victim) judge(changing bool) error {
	now, err := v.routings()
	if err != nil {
		return err
	}
	wants := v.wants()
	for _, f := range proxy.Families {
		present := 0
		for _, mode := range v.modes {
			at := place{mode, f}
			if now[at] != nil {
				present++
			}
			if err := v.judgePlace(at, now, wants[f], changing); err != nil {
				return fmt.Errorf("%s, rules of mode %s: %w", f, mode, err)
			}
		}
		if present > 1 {
			v.seen["several modes"]++
		}
	}
	v.before, v.asked = now, wants
	return nil
}

// judgePlace judges the rules of one mode for one family; those of mode ipvs, which change in steps, are judged by the connections alone. As no Service is without an endpoint, those of a whole mode lead somewhere.
func (v *victim) judgePlace(at place, all map[place]routing, want routing, changing bool) error {
	now, was := all[at], v.before[at]
	own := all[place{v.mode, at.family}]
	switch {
	case now.same(was):
		if at.mode == v.mode && !was.same(want) {
			v.seen["as before"]++
		}
		return nil
	case at.mode == v.mode && now.same(want):
		v.seen["as asked for"]++
		return nil
	case at.mode == v.mode && changing && now.between(v.asked[at.family], want):
		v.seen["between"]++
		return nil
	case at.mode != v.mode && now == nil && (own.same(want) || v.mode == "ipvs" || v.running == "ipvs"),
		now == nil && all[place{v.running, at.family}].between(v.asked[at.family], want):
		v.seen["removed"]++
		return nil
	}
	return fmt.Errorf("are neither as before nor as asked for:\n-before +now\n%s\n-asked for +now\n%s", cmp.Diff(was, now), cmp.Diff(want, now))
}

// between tells that each address leads to where it led before or to where it should, or nowhere if that is new. Objects that change at once are
// delivered one after the other.
func (r routing) between(was, want routing) bool {
	if r == nil {
		return false
	}
	keys := map[string]bool{}
	for _, m := range []routing{r, was, want} {
		for k := range m {
			keys[k] = true
		}
	}
	for k := range keys {
		fits := slices.Equal(r[k], was[k]) || slices.Equal(r[k], want[k]) || r[k] == nil && (was[k] == nil || want[k] == nil)
		if !fits {
			return false
		}
	}
	return true
}

// plantKubeProxy leaves rules of kube-proxy's in a variant of iptables that has none.
func (v *victim) plantKubeProxy() {
	variant := []string{"nft", "legacy"}[v.rng.IntN(2)]
	for _, f := range proxy.Families {
		if v.before[place{"iptables-" + variant, f}] != nil {
			return
		}
	}
	for _, f := range proxy.Families {
		v.loadKubeProxy(variant, f, "pod-2")
	}
	v.look()
	v.seen["kube-proxy's"]++
}

// endsIn starts the proxy once more: then there are only the rules of its mode, as asked for.
func (v *victim) endsIn(mode string) {
	v.t.Helper()
	v.label("")
	p := v.startMode(mode)
	v.hasOnly(mode)
	now, err := v.routings()
	if err != nil {
		v.t.Fatal(err)
	}
	for _, f := range proxy.Families {
		if mode == "ipvs" {
			break // which is not read
		}
		if d := cmp.Diff(v.wanted(f), now[place{mode, f}]); d != "" {
			v.t.Errorf("%s: -want +got\n%s", f, d)
		}
	}
	p.stop()
}

// TestKilledCanFail spoils rules: what TestKilledAnywhere judges by must tell.
func TestKilledCanFail(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.switchable()
	c.set(c.with(newService(1, "web"), on("pod-2"), on("pod-4"))...)
	for _, row := range []struct{ mode, command string }{
		{"nftables", "nft delete element ip kube-proxy endpoints { 0:1 . 0, 0:1 . 1 }"},
		{"nftables", "nft delete element ip6 kube-proxy endpoints { 0:2 . 1 }"},
		{"nftables", "nft delete element ip kube-proxy frontends { 10.96.0.1 . tcp . 80 }"},
		{"nftables", "nft delete element ip kube-proxy nodeports { udp . 30004 }"},
		{"nftables", "nft delete chain ip kube-proxy nat-output"},
		{"iptables-nft", "iptables-nft -t nat -D OUTPUT 1"},
		{"iptables-nft", "iptables-nft -t nat -F KUBE-POSTROUTING"},
		{"iptables-legacy", "ip6tables-legacy -w -t nat -D KUBE-SERVICES 1"},
		{"iptables-legacy", "ip6tables-legacy -w -t nat -F KUBE-NODEPORTS"},
		{"iptables-legacy", "iptables-legacy -w -t nat -F $(iptables-legacy-save -t nat | sed -n 's/^:\\(KUBE-SEP-[A-Z0-9]*\\) .*/\\1/p' | head -n 1)"},
	} {
		c.startMode(row.mode).stop()
		judge := func() error {
			now, err := c.routings()
			for _, f := range proxy.Families {
				if err == nil && !now[place{row.mode, f}].same(c.wanted(f)) {
					err = fmt.Errorf("%s: %s", f, cmp.Diff(c.wanted(f), now[place{row.mode, f}]))
				}
			}
			return err
		}
		if err := judge(); err != nil {
			t.Errorf("mode %s: %v", row.mode, err)
		}
		if out := c.try("sh", "-c", row.command); out != "" {
			t.Errorf("%s: %s", row.command, out)
		}
		if judge() == nil {
			t.Errorf("%s was not noticed", row.command)
		}
	}
}
