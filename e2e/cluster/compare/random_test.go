package compare

import (
	"context"
	"math/rand/v2"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/proxy/proxytest/objects"
)

const (
	// atOnce is the number of Services that there are at the same time; swap of them change from one comparison to the next.
	atOnce, swap = 60, 30
	// packetsEach is the number of packets of each comparison.
	packetsEach = 2000
)

// TestRandom sends packets to random Services, which change again and again while the proxies run.
func TestRandom(t *testing.T) {
	seed := *randomSeed
	if seed == 0 {
		seed = rand.Uint64N(1e9) + 1
	}
	t.Logf("to repeat: -run TestRandom -random.seed=%d -random.cases=%d", seed, *randomCases)
	for i, s := range []settings{usual, unusual} {
		t.Run(s.name, func(t *testing.T) {
			p := newPair(t, s)
			p.knowZone(t)
			w := &walk{pair: p, t: t, rng: rand.New(rand.NewPCG(seed, uint64(i)))}
			w.run(*randomCases)
		})
	}
}

// walk is a pair whose Services change.
type walk struct {
	*pair
	t     *testing.T
	rng   *rand.Rand
	drawn int
	have  [atOnce][]metav1.Object
}

func (w *walk) run(cases int) {
	for first := true; first || w.drawn < cases && !w.t.Failed(); first = false {
		which := w.rng.Perm(atOnce)
		if !first {
			which = which[:swap]
		}
		w.follow(w.draw(which))
		list := packets(w.turnout.Lab.Cluster, w.Objects())
		total := len(list)
		w.rng.Shuffle(total, func(i, j int) { list[i], list[j] = list[j], list[i] })
		list = list[:min(total, packetsEach)]
		answered, unanswered := w.compare(w.t, list)
		w.t.Logf("%d Services drawn: %d of %d packets compared, %d answered, %d not", w.drawn, len(list), total, answered, unanswered)
		if min(answered, unanswered) < len(list)/20 {
			w.t.Errorf("%d packets were answered and %d not: that does not say much", answered, unanswered)
		}
	}
}

// draw makes other versions of some Services; at times one is gone for now.
func (w *walk) draw(which []int) error {
	ctx := context.Background()
	var set, gone []metav1.Object
	for _, i := range which {
		gone = append(gone, w.have[i]...)
		w.have[i] = nil
		w.drawn++
		if w.rng.IntN(10) == 0 {
			continue
		}
		w.have[i] = w.version(i)
		set = append(set, w.have[i]...)
	}
	if err := w.Remove(ctx, without(gone, set)...); err != nil {
		return err
	}
	return w.Set(ctx, set...)
}

// version draws the i-th Service. One that says different things about an endpoint, which leaves it to chance what kube-proxy does, is
// mostly drawn again.
func (w *walk) version(i int) (out []metav1.Object) {
	for range 10 {
		// The first ClusterIP is that of the API server's own Service.
		s, slices := objects.Service(w.rng, w.turnout.Lab.Cluster, i+1)
		out = []metav1.Object{s}
		for _, e := range slices {
			out = append(out, e)
		}
		if len(listedTwice(out)) == 0 || w.rng.IntN(20) == 0 {
			break
		}
	}
	return out
}

// without returns the objects that have no namesake among others of their kind.
func without(list, others []metav1.Object) (out []metav1.Object) {
	names := map[string]bool{}
	for _, o := range others {
		names[nameOf(o)] = true
	}
	for _, o := range list {
		if !names[nameOf(o)] {
			out = append(out, o)
		}
	}
	return out
}
