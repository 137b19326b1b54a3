package iptables

import (
	"context"
	"math/rand/v2"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// inKernel runs a test for each variant and family in a new network namespace.
func inKernel(t *testing.T, fn func(t *testing.T, o Options)) {
	eachVariant(t, func(t *testing.T, o Options) {
		proxytest.InNamespace(t, func() { fn(t, o) })
	})
}

func newKernelBackend(t *testing.T, o Options) *Backend {
	t.Helper()
	b, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustApply(t *testing.T, b *Backend, s *proxy.State) proxy.Report {
	t.Helper()
	r, err := b.Apply(t.Context(), s)
	if err != nil || len(r.Rejected) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	return r
}

// run runs a command of the variant and family, given as words; IPT stands for the program.
func run(t *testing.T, o Options, command string) string {
	t.Helper()
	name := "iptables-"
	if o.Family == proxy.IPv6 {
		name = "ip6tables-"
	}
	words := strings.Fields(regexp.MustCompile(`^IPT\b`).ReplaceAllString(command, name+string(o.Variant)))
	out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", words, err, out)
	}
	return string(out)
}

// saved is what iptables-save prints, without counters and comments; rules of shared chains are sorted, with the line of their chain.
func saved(t *testing.T, o Options) []string {
	t.Helper()
	var out []string
	for _, table := range tables {
		text := run(t, o, "IPT-save -t "+table)
		if strings.Contains(text, "incompatible") {
			t.Fatal(text)
		}
		var lines []string
		for l := range strings.Lines(text) {
			l, _, _ = strings.Cut(strings.TrimSpace(l), " [")
			if l != "" && !strings.HasPrefix(l, "#") {
				lines = append(lines, table+" "+l)
			}
		}
		slices.SortStableFunc(lines, func(a, b string) int { return strings.Compare(sortKey(a), sortKey(b)) })
		out = append(out, lines...)
	}
	return out
}

// sortKey keeps rules of all but the shared chains in their order.
func sortKey(line string) string {
	words := strings.Fields(line)
	for c := range sharedChains {
		if len(words) > 2 && words[1] == "-A" && words[0] == sharedNames[c].table && words[2] == sharedNames[c].name {
			return line
		}
	}
	return strings.Join(words[:min(3, len(words))], " ")
}

// Changes lead the kernel to what a rebuild makes of nothing, and so it holds what the fake does.
func TestKernelWalk(t *testing.T) {
	inKernel(t, func(t *testing.T, o Options) {
		rng := rand.New(rand.NewPCG(5, uint64(o.Family)))
		b := newKernelBackend(t, o)
		state := proxytest.RandomState(rng, o.Family, 20)
		for step := range 10 {
			if step == 5 {
				b.Forget()
			}
			mustApply(t, b, state)
			got := saved(t, o)
			var want []string
			proxytest.InNamespace(t, func() {
				mustApply(t, newKernelBackend(t, o), state)
				want = saved(t, o)
			})
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("step %d: -rebuilt +changed:\n%s", step, diff)
			}
			state = proxytest.Mutate(rng, state, 4)
		}
	})
}

// What was there before an Apply and a Cleanup is there after them, to the letter.
func TestKernelCleanup(t *testing.T) {
	inKernel(t, func(t *testing.T, o Options) {
		for _, c := range []string{
			"-N KUBE-FIREWALL", "-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP", "-A INPUT -j KUBE-FIREWALL", "-t nat -N KUBE-MARK-DROP",
			"-t mangle -N KUBE-KUBELET-CANARY", "-N KUBE-ROUTER-INPUT", "-A INPUT -j KUBE-ROUTER-INPUT", "-t nat -N cali-PREROUTING",
			"-t nat -A PREROUTING -j cali-PREROUTING", "-t nat -N DOCKER", "-t nat -A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER",
		} {
			run(t, o, "IPT "+c)
		}
		before := saved(t, o)
		b := newKernelBackend(t, o)
		mustApply(t, b, proxytest.RandomState(rand.New(rand.NewPCG(6, uint64(o.Family))), o.Family, 20))
		for range 2 {
			other, err := Open(t.Context(), o) // which has not written anything
			if err != nil {
				t.Fatal(err)
			}
			if err := other.Cleanup(t.Context()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, saved(t, o)); diff != "" {
				t.Fatalf("-before +after:\n%s", diff)
			}
		}
	})
}

// What is lost is noticed, and comes back: each jump, each table, and what holds for all Services.
func TestKernelHeal(t *testing.T) {
	losses := []string{
		"IPT -t nat -F", "IPT -F", "IPT -t mangle -F KUBE-PROXY-CANARY", "IPT -t nat -F KUBE-POSTROUTING", "IPT -F KUBE-FORWARD",
		"IPT -t nat -F KUBE-MARK-MASQ", "IPT -t nat -F KUBE-SERVICES", "IPT -F KUBE-PROXY-REJECT",
	}
	inKernel(t, func(t *testing.T, o Options) {
		b := newKernelBackend(t, o)
		state := proxytest.RandomState(rand.New(rand.NewPCG(7, uint64(o.Family))), o.Family, 10)
		mustApply(t, b, state)
		want := saved(t, o)
		lose := func(what string, fn func()) {
			fn()
			damage, err := b.Check(t.Context())
			if damage == "" || err != nil {
				t.Errorf("%s: damage %q, %v", what, damage, err)
			}
			b.Forget()
			if r := mustApply(t, b, state); !r.Full {
				t.Errorf("%s: %+v", what, r)
			}
			if damage, err := b.Check(t.Context()); damage != "" || err != nil {
				t.Errorf("%s: damage %q, %v after it was mended", what, damage, err)
			}
			if diff := cmp.Diff(sorted(want), sorted(saved(t, o))); diff != "" {
				t.Errorf("%s: -before +after:\n%s", what, diff)
			}
		}
		for i := range Jumps {
			j := &Jumps[i]
			lose("jump from "+j.From+" to "+j.To, func() {
				if err := b.kernel.restore(t.Context(), []byte("*"+j.Table+"\n-D "+j.From+" "+j.rule()+"\nCOMMIT\n")); err != nil {
					t.Fatal(err)
				}
			})
		}
		for _, command := range losses {
			lose(command, func() { run(t, o, command) })
		}
		if damage, err := b.Check(t.Context()); damage != "" || err != nil {
			t.Errorf("damage %q, %v of nothing", damage, err)
		}
	})
}

// What others take away is noticed also if something is applied before anybody looks.
func TestKernelLossBetweenChanges(t *testing.T) {
	inKernel(t, func(t *testing.T, o Options) {
		b := newKernelBackend(t, o)
		state := proxytest.RandomState(rand.New(rand.NewPCG(14, uint64(o.Family))), o.Family, 5)
		mustApply(t, b, state)
		if damage, err := b.Check(t.Context()); damage != "" || err != nil {
			t.Errorf("damage %q, %v of nothing", damage, err)
		}
		run(t, o, "IPT -t nat -F OUTPUT")
		mustApply(t, b, state) // the same: nothing to do
		if damage, err := b.Check(t.Context()); !strings.Contains(damage, "OUTPUT") || err != nil {
			t.Errorf("damage %q, %v after nothing was changed", damage, err)
		}
		more := *state
		more.HealthChecks = more.HealthChecks.Set(proxy.ServiceName{Namespace: "ns", Name: "web"}, proxy.HealthCheck{Port: 32000})
		if r := mustApply(t, b, &more); r.Full || r.Operations == 0 {
			t.Fatalf("%+v, want a change", r)
		}
		if damage, err := b.Check(t.Context()); !strings.Contains(damage, "OUTPUT") || err != nil {
			t.Errorf("damage %q, %v after a change", damage, err)
		}
	})
}

func sorted(lines []string) []string { return slices.Sorted(slices.Values(lines)) }

// Rules of others in the same chains, above and below, stay where they are, and there is one jump of each kind.
func TestKernelForeignRules(t *testing.T) {
	inKernel(t, func(t *testing.T, o Options) {
		state := proxytest.RandomState(rand.New(rand.NewPCG(8, uint64(o.Family))), o.Family, 5)
		foreign := func() (out []string) {
			for _, l := range saved(t, o) {
				if !strings.Contains(l, "KUBE-") {
					out = append(out, l)
				}
			}
			return out
		}
		run(t, o, "IPT -t nat -A PREROUTING -p tcp --dport 1 -j ACCEPT")
		run(t, o, "IPT -A INPUT -p tcp --dport 22 -j ACCEPT")
		mustApply(t, newKernelBackend(t, o), state)
		run(t, o, "IPT -t nat -I PREROUTING -p tcp --dport 2 -j ACCEPT")
		run(t, o, "IPT -I FORWARD -p tcp --dport 3 -j ACCEPT")
		before := foreign()
		for range 20 {
			b := newKernelBackend(t, o)
			mustApply(t, b, state)
			if damage, err := b.Check(t.Context()); damage != "" || err != nil {
				t.Fatalf("damage %q, %v", damage, err)
			}
		}
		if diff := cmp.Diff(before, foreign()); diff != "" {
			t.Errorf("-before +after:\n%s", diff)
		}
	})
}

// Jumps that are there several times, as other programs leave them, are there once afterwards.
func TestKernelSurplusJumps(t *testing.T) {
	inKernel(t, func(t *testing.T, o Options) {
		b := newKernelBackend(t, o)
		state := proxytest.NewState(o.Family)
		mustApply(t, b, state)
		want := saved(t, o)
		run(t, o, "IPT -t nat -A PREROUTING -j KUBE-SERVICES")
		run(t, o, "IPT -A FORWARD -p tcp -j KUBE-FORWARD")
		run(t, o, "IPT -A FORWARD -p tcp -j KUBE-FORWARD")
		b.Forget()
		mustApply(t, b, state)
		if diff := cmp.Diff(want, saved(t, o)); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

// Jumps that look unlike ours, as earlier releases of kube-proxy and its mode ipvs made them, are as good, and go with a cleanup.
func TestKernelOtherJumps(t *testing.T) {
	inKernel(t, func(t *testing.T, o Options) {
		run(t, o, "IPT -N OTHER")
		run(t, o, "IPT -t nat -N KUBE-SERVICES")
		run(t, o, "IPT -t nat -A PREROUTING -j KUBE-SERVICES")
		run(t, o, "IPT -N KUBE-PROXY-FIREWALL")
		run(t, o, "IPT -A INPUT -m comment --comment firewall -j KUBE-PROXY-FIREWALL")
		b := newKernelBackend(t, o)
		mustApply(t, b, proxytest.NewState(o.Family))
		text := run(t, o, "IPT -t nat -S PREROUTING") + run(t, o, "IPT -S INPUT")
		for _, chain := range []string{"KUBE-SERVICES", "KUBE-PROXY-FIREWALL"} {
			if n := strings.Count(text, "-j "+chain+"\n"); n != 1 {
				t.Errorf("%d jumps to %s:\n%s", n, chain, text)
			}
		}
		if damage, err := b.Check(t.Context()); damage != "" || err != nil {
			t.Errorf("all is there, and yet: %q, %v", damage, err)
		}
		run(t, o, "IPT -t nat -F KUBE-MARK-MASQ")
		if damage, err := b.Check(t.Context()); damage == "" || err != nil {
			t.Errorf("a rule that is lost is not noticed: %v", err)
		}
		if err := b.Cleanup(t.Context()); err != nil {
			t.Error(err)
		}
		if text := strings.Join(saved(t, o), "\n"); strings.Contains(text, "KUBE-") || !strings.Contains(text, "OTHER") {
			t.Errorf("after a cleanup:\n%s", text)
		}
	})
}

// A caller that does not want to wait any longer is told so.
func TestKernelCanceled(t *testing.T) {
	inKernel(t, func(t *testing.T, o Options) {
		b := newKernelBackend(t, o)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := b.Apply(ctx, proxytest.NewState(o.Family)); kindOf(err) != Canceled {
			t.Errorf("%v", err)
		}
	})
}

// Kube-proxy's cleanup finds all that it knows: it deletes the jumps by their text, and then empties and deletes the chains that it has names for, each table in
// one step.
func TestKernelKubeProxyCleansUp(t *testing.T) {
	inKernel(t, func(t *testing.T, o Options) {
		before := saved(t, o)
		b := newKernelBackend(t, o)
		mustApply(t, b, proxytest.RandomState(rand.New(rand.NewPCG(10, uint64(o.Family))), o.Family, 10))
		found, err := b.kernel.look(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, command := range []string{
			"-t nat -D PREROUTING -m comment --comment 'kubernetes service portals' -j KUBE-SERVICES",
			"-t nat -D OUTPUT -m comment --comment 'kubernetes service portals' -j KUBE-SERVICES",
			"-t nat -D POSTROUTING -m comment --comment 'kubernetes postrouting rules' -j KUBE-POSTROUTING",
			"-D INPUT -m conntrack --ctstate NEW -m comment --comment 'kubernetes externally-visible service portals' -j KUBE-EXTERNAL-SERVICES",
			"-D FORWARD -m conntrack --ctstate NEW -m comment --comment 'kubernetes externally-visible service portals' -j KUBE-EXTERNAL-SERVICES",
			"-D INPUT -m comment --comment 'kubernetes health check service ports' -j KUBE-NODEPORTS",
			"-D FORWARD -m conntrack --ctstate NEW -m comment --comment 'kubernetes service portals' -j KUBE-SERVICES",
			"-D OUTPUT -m conntrack --ctstate NEW -m comment --comment 'kubernetes service portals' -j KUBE-SERVICES",
			"-D FORWARD -m comment --comment 'kubernetes forwarding rules' -j KUBE-FORWARD",
			"-D INPUT -m conntrack --ctstate NEW -m comment --comment 'kubernetes load balancer firewall' -j KUBE-PROXY-FIREWALL",
			"-D OUTPUT -m conntrack --ctstate NEW -m comment --comment 'kubernetes load balancer firewall' -j KUBE-PROXY-FIREWALL",
			"-D FORWARD -m conntrack --ctstate NEW -m comment --comment 'kubernetes load balancer firewall' -j KUBE-PROXY-FIREWALL",
		} {
			shell(t, o, command)
		}
		for _, table := range tables {
			s := &script{}
			x := s.section(table)
			for _, name := range found.chains[table] {
				if name != clusterIPsChain && name != rejectChain {
					x.drop(name, nil)
				}
			}
			text, _ := s.text()
			if err := b.kernel.restore(t.Context(), text); err != nil {
				t.Errorf("table %s: %v", table, err)
			}
		}
		left := slices.DeleteFunc(saved(t, o), func(l string) bool {
			return slices.Contains(before, l) || strings.Contains(l, clusterIPsChain) || strings.Contains(l, rejectChain)
		})
		left = slices.DeleteFunc(left, func(l string) bool { // tables that were made, as they are when they are new
			return !strings.Contains(l, "KUBE-")
		})
		if len(left) > 0 {
			t.Errorf("left over: %q", left)
		}
		if err := b.Cleanup(t.Context()); err != nil {
			t.Error(err)
		}
		if text := strings.Join(saved(t, o), "\n"); strings.Contains(text, "KUBE-") {
			t.Errorf("after our own cleanup:\n%s", text)
		}
	})
}

// shell runs the program with arguments that need quoting.
func shell(t *testing.T, o Options, arguments string) {
	t.Helper()
	name := in(o.Family, "iptables-", "ip6tables-") + string(o.Variant)
	if out, err := exec.Command("sh", "-c", name+" "+arguments).CombinedOutput(); err != nil {
		t.Errorf("%s %s: %v\n%s", name, arguments, err, out)
	}
}
