package iptables

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// onCluster is a Service with a ClusterIP and an endpoint on another node.
func onCluster(f proxy.Family, name, n string) *proxy.Service {
	return proxytest.NewService("ns/"+name+"/TCP", proxytest.At(proxy.ClusterIP, in(f, "10.96.0."+n+":80", "[fd00:10:96::"+n+"]:80"), proxytest.Internal),
		proxytest.On(in(f, "10.244.2."+n+":8080", "[fd00:10:244:2::"+n+"]:8080")))
}

// What is refused as a whole is no Service's fault, also if the line before is a Service's.
func TestRefusedAsAWhole(t *testing.T) {
	state := proxytest.NewState(proxy.IPv4, onCluster(proxy.IPv4, "a", "1"), onCluster(proxy.IPv4, "b", "2"), onCluster(proxy.IPv4, "c", "3"))
	for _, size := range []int{0, 1} {
		k := newFakeKernel()
		k.size = size
		k.refuse = func(l string) bool { return l == "COMMIT" }
		b := newBackend(Options{Family: proxy.IPv4}, k)
		_, err := b.Apply(t.Context(), state)
		if kindOf(err) != Refused || k.scripts != 1 {
			t.Errorf("steps of %d: %v after %d scripts, want an error after the first", size, err, k.scripts)
		}
		k.refuse = nil
		if r, err := b.Apply(t.Context(), state); err != nil || len(r.Rejected) > 0 {
			t.Errorf("steps of %d: %+v, %v when it works again", size, r, err)
		}
	}
}

// A chain that a rule of another program leads to cannot be deleted. It is left without rules, and is in nobody's way.
func TestForeignRuleLeadsToChain(t *testing.T) {
	inKernel(t, func(t *testing.T, o Options) {
		b := newKernelBackend(t, o)
		gone, stays := onCluster(o.Family, "gone", "1"), onCluster(o.Family, "stays", "2")
		mustApply(t, b, proxytest.NewState(o.Family, gone, stays))
		used := namingOf(gone.Name).pool(proxy.Cluster)
		foreign := "-p tcp -m tcp --dport 1 -j " + used
		run(t, o, "IPT -t nat -N OTHER")
		run(t, o, "IPT -t nat -A OTHER "+foreign)
		run(t, o, "IPT -t nat -A OTHER -j KUBE-MARK-MASQ")
		mustApply(t, b, proxytest.NewState(o.Family, stays))
		want := "-N " + used + "\n"
		if got := run(t, o, "IPT -t nat -S "+used); got != want {
			t.Errorf("the chain that is in use has %q, want %q", got, want)
		}
		if r := mustApply(t, b, proxytest.NewState(o.Family, stays, onCluster(o.Family, "new", "3"))); r.Full {
			t.Errorf("a change after that: %+v", r)
		}
		if damage, err := b.Check(t.Context()); damage != "" || err != nil {
			t.Errorf("damage %q, %v", damage, err)
		}
		mustApply(t, b, proxytest.NewState(o.Family, gone, stays))
		if got := run(t, o, "IPT -t nat -S "+used); got == want {
			t.Errorf("the Service is there again, and its chain is empty")
		}
		if err := b.Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
		var left []string
		for _, l := range saved(t, o) {
			if strings.Contains(l, "KUBE-") || strings.Contains(l, "OTHER") {
				left = append(left, l)
			}
		}
		if diff := cmp.Diff(sorted([]string{"nat :KUBE-MARK-MASQ -", "nat :OTHER -", "nat :" + used + " -", "nat -A OTHER " + foreign, "nat -A OTHER -j KUBE-MARK-MASQ"}), sorted(left)); diff != "" {
			t.Errorf("after a cleanup: -want +got:\n%s", diff)
		}
	})
}

// refuseAtCommit has a kernel refuse what contains a word as iptables-legacy tells it: at the end of the table.
func refuseAtCommit(k *fakeKernel, word string) {
	bad := false
	k.refuse = func(l string) bool {
		bad = bad || strings.Contains(l, word)
		if l != "COMMIT" || !bad {
			return false
		}
		bad = false
		return true
	}
}

// Services that need what the node lacks are left out, and told with the reason; all others are served.
func TestLacks(t *testing.T) {
	tcp := onCluster(proxy.IPv4, "tcp", "1")
	sctp := proxytest.NewService("ns/sctp/SCTP", proxytest.At(proxy.ClusterIP, "10.96.0.2:80", proxytest.Internal), proxytest.On("10.244.2.2:80"))
	sticky := proxytest.NewService("ns/sticky/TCP", proxytest.Sticky(time.Minute), proxytest.At(proxy.ClusterIP, "10.96.0.3:80", proxytest.Internal), proxytest.On("10.244.2.3:80"))
	for _, row := range []struct {
		word, says string
		out        *proxy.Service
	}{{"-m sctp", "this node cannot do SCTP", sctp}, {"-m recent", "this node cannot do session affinity", sticky}} {
		k := newFakeKernel()
		refuseAtCommit(k, row.word)
		b := newBackend(Options{Family: proxy.IPv4, RetryRejected: time.Nanosecond}, k)
		if err := b.probe(t.Context()); err != nil || len(b.Choice().Lacks) != 1 || !strings.Contains(b.Choice().String(), "are left out") {
			t.Fatalf("%s: %v, %v", row.word, err, b.Choice())
		}
		state := proxytest.NewState(proxy.IPv4, tcp, sctp, sticky)
		changed := *row.out
		changed.Cluster = append(changed.Cluster[:1:1], proxytest.NewService("ns/x/TCP", proxytest.On("10.244.2.9:80")).Cluster...)
		less := *state
		less.Services = less.Services.Delete(row.out.Name)
		other := *state
		other.Services = other.Services.Set(changed.Name, &changed)
		for step, s := range []*proxy.State{state, state, &other, &less, state} {
			r, err := b.Apply(t.Context(), s)
			if want := s != &less; err != nil || r.Full != (step == 0) || r.Failures.All > 0 || (len(r.Rejected) == 1) != want {
				t.Fatalf("%s, step %d: %+v, %v", row.word, step, r, err)
			}
			if len(r.Rejected) > 0 && (r.Rejected[0].Name != row.out.Name || !strings.Contains(r.Rejected[0].Err.Error(), row.says)) {
				t.Errorf("%s, step %d: %v", row.word, step, r.Rejected)
			}
			if diff := cmp.Diff(fresh(t, &less), k.dump(b.rules)); diff != "" {
				t.Errorf("%s, step %d: -want +got:\n%s", row.word, step, diff)
			}
		}
	}
}

// What all Services need is named where it is refused, also if the program does not tell the line.
func TestNeeds(t *testing.T) {
	for _, word := range []string{"statistic", "MASQUERADE", "tcp-reset"} {
		for _, atCommit := range []bool{false, true} {
			k := newFakeKernel()
			if refuseAtCommit(k, word); !atCommit {
				k.refuse = func(l string) bool { return strings.Contains(l, word) }
			}
			err := newBackend(Options{Family: proxy.IPv4}, k).probe(t.Context())
			if _, rule, _ := strings.Cut(fmt.Sprint(err), `try what rules may need, "`); !strings.Contains(strings.SplitN(rule, `"`, 2)[0], word) {
				t.Errorf("%s, at the end: %t: %v", word, atCommit, err)
			}
		}
	}
}
