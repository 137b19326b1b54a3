package cluster

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"turnout/proxy"
)

var (
	outage    = flag.Duration("outage", time.Minute, "how long TestAPIServerOutage leaves the cluster without an API server")
	watchSeed = flag.Uint64("watch.seed", 0, "first random number of TestWatchBroken; another one each time if 0")
)

// TestAPIServerOutage kills the API server and the controllers, starts them again after a while, and makes changes before the proxy
// reaches it: rules must stay while it is away, and everything that changed meanwhile must arrive after.
func TestAPIServerOutage(t *testing.T) {
	s := ownScene(t)
	stays := s.create(full("stays"), "pod-2", "pod-5")
	goes := s.create(plain("goes"), "pod-2")
	changes := s.create(plain("changes"), "pod-2")
	s.follow()
	s.reached(goes, "before the outage", "pod-2")
	loads := []*load{
		s.apply(t, "a Service that stays", localPod, s.clusterIP(stays, proxy.IPv4)),
		s.apply(t, "a NodePort that stays", outside, s.address(stays, proxy.NodePort, proxy.IPv6, proxy.TCP)),
	}

	start := time.Now()
	s.plane.KillControllers()
	s.plane.KillAPIServer()
	time.Sleep(*outage)
	s.health(t, "/healthz", 200)
	s.health(t, "/readyz", 200)
	s.reached(goes, "after a while without an API server", "pod-2")
	s.plane.Front.Shut()
	must(t, s.plane.StartAPIServer())
	must(t, s.plane.StartControllers())
	comes := s.create(plain("comes"), "pod-3")
	s.remove("goes")
	must(t, s.plane.RemovePod(s.ctx, s.ns, pod("changes", "pod-2")))
	s.run("changes", "pod-3")
	for _, service := range []*v1.Service{comes, changes} {
		eventually(t, "the controllers wrote slices of "+service.Name, func() string { return s.slicesLack(service) })
	}
	s.reached(goes, "while the proxy cannot know of it", "pod-2")
	t.Logf("the proxy had no API server for %v", time.Since(start).Round(time.Second))

	must(t, s.plane.Front.Open())
	within(t, time.Minute, "what changed meanwhile arrives", func() {
		s.becomes(t, "a Service made meanwhile", localPod, s.clusterIP(comes, proxy.IPv4), kept("pod-3"))
		s.becomes(t, "a Service deleted meanwhile", localPod, s.clusterIP(goes, proxy.IPv4), dropped)
		s.becomes(t, "endpoints changed meanwhile", localPod, s.clusterIP(changes, proxy.IPv4), kept("pod-3"))
	})
	s.follow()
	s.reached(comes, "in the end", "pod-3")
	s.lacks("goes")
	s.reached(changes, "in the end", "pod-3")
	for _, l := range loads {
		l.judge()
	}
	if !s.proxy.Running() {
		t.Error("the proxy ended")
	}
}

// TestWatchSilent has the proxy's connections go dead without a word. It must notice that by itself, and connect again.
func TestWatchSilent(t *testing.T) {
	s := ownScene(t)
	service := s.create(plain("web"), "pod-2")
	s.follow()
	s.reached(service, "before", "pod-2")
	if n := s.plane.Front.Freeze(); n == 0 {
		t.Fatal("the proxy has no connection")
	}
	s.run("web", "pod-3")
	must(t, s.plane.RemovePod(s.ctx, s.ns, pod("web", "pod-2")))
	within(t, 75*time.Second, "a change after a silent loss of all connections arrives", func() {
		s.becomes(t, "the other pod is reached", localPod, s.clusterIP(service, proxy.IPv6), kept("pod-3"))
	})
	s.follow()
	s.reached(service, "after", "pod-3")
}

// TestStartWithoutAPIServer starts the proxy while no API server can be reached: the rules of the process before stay, and it becomes
// ready when there is one.
func TestStartWithoutAPIServer(t *testing.T) {
	s := ownScene(t)
	service := s.create(full("web"), "pod-2", "pod-5")
	s.follow()
	loads := []*load{
		s.apply(t, "ClusterIP", localPod, s.clusterIP(service, proxy.IPv4)),
		s.apply(t, "NodePort", outside, s.address(service, proxy.NodePort, proxy.IPv6, proxy.TCP)),
	}
	s.proxy.Kill()
	s.plane.Front.Shut()
	before := len(s.proxy.Log())
	p, err := s.launch(s.kubeconfig, s.user)
	must(t, err)
	eventually(t, "the log says that the API server cannot be reached", func() string {
		if log := s.proxy.Log()[before:]; !strings.Contains(log, "connection refused") {
			return log
		}
		return ""
	})
	s.health(t, "/readyz", 503)
	s.reached(service, "without an API server", "pod-2", "pod-5")
	s.run("web", "pod-3")
	must(t, s.plane.Front.Open(), s.ready(p))
	s.follow()
	s.reached(service, "with an API server", "pod-2", "pod-3", "pod-5")
	for _, l := range loads {
		l.judge()
	}
}

// TestWatchBroken cuts the proxy's connections at random moments, at times so that it cannot connect again for a while, in the middle of
// many changes. In the end it must have every one of them.
func TestWatchBroken(t *testing.T) {
	s := ownScene(t)
	seed := *watchSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("repeat with -watch.seed=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	stays := s.create(plain("stays"), "pod-2")
	s.follow()
	steady := s.apply(t, "a Service that stays", localPod, s.clusterIP(stays, proxy.IPv4))
	const steps, cuts = 120, 10
	var cut atomic.Int64
	done, ended := make(chan struct{}), make(chan error, 1)
	stop := sync.OnceFunc(func() { close(done) })
	defer stop()
	go func() { ended <- s.disturb(rand.New(rand.NewPCG(seed, 1)), &cut, done) }()
	w := &world{scene: s, rng: rng, services: map[string]*v1.Service{}, pods: map[string]map[string]bool{}}
	n := 0
	for end := time.Now().Add(patience); (n < steps || cut.Load() < cuts) && time.Now().Before(end); n++ {
		w.step()
		time.Sleep(time.Duration(rng.IntN(40)) * time.Millisecond)
	}
	stop()
	must(t, <-ended)
	t.Logf("%d changes, %d connections were cut", n, cut.Load())
	if n < steps || cut.Load() < cuts {
		t.Errorf("%d changes, %d connections were cut: this proves nothing", n, cut.Load())
	}
	must(t, s.plane.Front.Open())
	s.follow()
	for name, service := range w.services {
		s.reached(service, name+" in the end", w.hosts(name)...)
	}
	steady.judge()
}

// disturb breaks connections until done is closed, and counts them.
func (s *scene) disturb(rng *rand.Rand, cut *atomic.Int64, done <-chan struct{}) error {
	for {
		select {
		case <-done:
			return nil
		case <-time.After(time.Duration(rng.IntN(400)) * time.Millisecond):
		}
		cut.Add(int64(s.plane.Front.Cut()))
		if rng.IntN(4) == 0 {
			s.plane.Front.Shut()
			time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
			if err := s.plane.Front.Open(); err != nil {
				return err
			}
		}
	}
}

// world is Services and pods that change at random, and what they should be.
type world struct {
	*scene
	rng      *rand.Rand
	services map[string]*v1.Service
	pods     map[string]map[string]bool // by Service, the hosts of its pods
}

// step makes one change.
func (w *world) step() {
	name := fmt.Sprintf("random-%d", w.rng.IntN(8))
	hosts := []string{"pod-2", "pod-3", "pod-5"}
	host := hosts[w.rng.IntN(len(hosts))]
	switch _, exists := w.services[name]; {
	case !exists:
		w.services[name] = w.create(plain(name))
		if w.pods[name] == nil {
			w.pods[name] = map[string]bool{} // pods outlive their Service
		}
	case w.rng.IntN(6) == 0:
		w.remove(name)
		delete(w.services, name)
	case w.pods[name][host]:
		must(w.t, w.plane.RemovePod(w.ctx, w.ns, pod(name, host)))
		delete(w.pods[name], host)
	default:
		w.run(name, host)
		w.pods[name][host] = true
	}
}

// hosts lists the hosts of a Service's pods.
func (w *world) hosts(service string) (out []string) {
	for host := range w.pods[service] {
		out = append(out, host)
	}
	return out
}
