package kube

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"

	"turnout/proxy"
)

// memory is a sink that writes down its calls.
type memory struct {
	mu    sync.Mutex // guards calls
	calls []string
	// before is called in front of every call that is not Synced.
	before func()
}

func (m *memory) note(format string, args ...any) {
	if m.before != nil && format != "synced" {
		m.before()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, fmt.Sprintf(format, args...))
}

// take returns what was called since the last take, sorted but for Synced, which stays between what came before and after.
func (m *memory) take() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := m.calls
	m.calls = nil
	if i := slices.Index(out, "synced"); i >= 0 {
		slices.Sort(out[:i])
		slices.Sort(out[i+1:])
		return out
	}
	slices.Sort(out)
	return out
}

func (m *memory) SetService(s *v1.Service) {
	m.note("set service %s/%s %s", s.Namespace, s.Name, s.Spec.ClusterIP)
}
func (m *memory) DeleteService(n proxy.ServiceName) { m.note("delete service %s", n) }
func (m *memory) SetEndpointSlice(s *discovery.EndpointSlice) {
	m.note("set slice %s/%s %d", s.Namespace, s.Name, len(s.Endpoints))
}
func (m *memory) DeleteEndpointSlice(namespace, name string) {
	m.note("delete slice %s/%s", namespace, name)
}
func (m *memory) SetNode(n *v1.Node) { m.note("set node %s %s", n.Name, n.Labels["zone"]) }
func (m *memory) DeleteNode()        { m.note("delete node") }
func (m *memory) SetServiceCIDR(c *networking.ServiceCIDR) {
	m.note("set cidr %s %v", c.Name, c.Spec.CIDRs)
}
func (m *memory) DeleteServiceCIDR(name string) { m.note("delete cidr %s", name) }
func (m *memory) Synced()                       { m.note("synced") }

func service(name, clusterIP string) *v1.Service {
	return &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: v1.ServiceSpec{ClusterIP: clusterIP}}
}

func slice(name string, endpoints int) *discovery.EndpointSlice {
	return &discovery.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Endpoints: make([]discovery.Endpoint, endpoints),
	}
}

func node(name, zone string) *v1.Node {
	return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"zone": zone}}}
}

func cidr(name string) *networking.ServiceCIDR {
	return &networking.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networking.ServiceCIDRSpec{CIDRs: []string{"10.0.0.0/24"}}}
}

// cluster is a Source on a fake API server, in a synctest bubble.
type cluster struct {
	*fake.Clientset
	t    *testing.T
	sink *memory
	log  ktesting.Underlier
}

// run calls test in a bubble where time is fake, with a Source that runs until its end.
func run(t *testing.T, opts Options, objects []runtime.Object, prepare func(*cluster), test func(context.Context, *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true), ktesting.Verbosity(0)))
		log, _ := logger.GetSink().(ktesting.Underlier)
		ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), logger))
		c := &cluster{Clientset: fake.NewClientset(objects...), t: t, sink: &memory{}, log: log}
		if prepare != nil {
			prepare(c)
		}
		ended := make(chan error)
		go func() { ended <- New(c.Clientset, opts).Run(ctx, c.sink) }()
		synctest.Wait()
		test(ctx, c)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// want compares the calls since the last time with what is expected.
func (c *cluster) want(calls ...string) {
	c.t.Helper()
	synctest.Wait()
	if d := cmp.Diff(calls, c.sink.take()); d != "" {
		c.t.Errorf("calls (-want +got):\n%s", d)
	}
}

func (c *cluster) must(_ any, err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func TestDelivers(t *testing.T) {
	objects := []runtime.Object{service("a", "10.0.0.1"), slice("a-1", 1), node("n1", "x"), node("n2", "y"), cidr("kubernetes")}
	run(t, Options{NodeName: "n1"}, objects, nil, func(ctx context.Context, c *cluster) {
		calls := c.sink.take()
		synced := slices.Index(calls, "synced")
		for _, call := range []string{"set service shop/a 10.0.0.1", "set slice shop/a-1 1"} {
			if i := slices.Index(calls, call); i < 0 || i > synced {
				t.Errorf("%q must be before Synced in %q", call, calls)
			}
		}
		slices.Sort(calls)
		want := []string{"set cidr kubernetes [10.0.0.0/24]", "set node n1 x", "set service shop/a 10.0.0.1", "set slice shop/a-1 1", "synced"}
		if d := cmp.Diff(want, calls); d != "" {
			t.Errorf("calls (-want +got):\n%s", d)
		}

		c.must(c.CoreV1().Services("shop").Create(ctx, service("b", "10.0.0.2"), metav1.CreateOptions{}))
		c.must(c.CoreV1().Services("shop").Update(ctx, service("a", "10.0.0.3"), metav1.UpdateOptions{}))
		c.want("set service shop/a 10.0.0.3", "set service shop/b 10.0.0.2")
		c.must(nil, c.CoreV1().Services("shop").Delete(ctx, "a", metav1.DeleteOptions{}))
		c.want("delete service shop/a")

		c.must(c.DiscoveryV1().EndpointSlices("shop").Update(ctx, slice("a-1", 2), metav1.UpdateOptions{}))
		c.want("set slice shop/a-1 2")
		c.must(nil, c.DiscoveryV1().EndpointSlices("shop").Delete(ctx, "a-1", metav1.DeleteOptions{}))
		c.want("delete slice shop/a-1")

		c.must(c.CoreV1().Nodes().Update(ctx, node("n2", "z"), metav1.UpdateOptions{}))
		c.must(nil, c.CoreV1().Nodes().Delete(ctx, "n2", metav1.DeleteOptions{}))
		c.must(c.CoreV1().Nodes().Update(ctx, node("n1", "z"), metav1.UpdateOptions{}))
		c.want("set node n1 z")
		c.must(nil, c.CoreV1().Nodes().Delete(ctx, "n1", metav1.DeleteOptions{}))
		c.want("delete node")

		c.must(c.NetworkingV1().ServiceCIDRs().Create(ctx, cidr("more"), metav1.CreateOptions{}))
		c.want("set cidr more [10.0.0.0/24]")
		c.must(nil, c.NetworkingV1().ServiceCIDRs().Delete(ctx, "more", metav1.DeleteOptions{}))
		c.want("delete cidr more")
		time.Sleep(24 * time.Hour)
		c.want() // no resync was asked for
	})
}

func TestSelectors(t *testing.T) {
	type selectors struct{ labels, fields string }
	run(t, Options{NodeName: "n1"}, nil, nil, func(_ context.Context, c *cluster) {
		want := map[string]selectors{
			"services":       {"!service.kubernetes.io/service-proxy-name", "spec.clusterIP!=None"},
			"endpointslices": {"!service.kubernetes.io/headless", ""},
			"servicecidrs":   {"", ""},
			"nodes":          {"", "metadata.name=n1"},
		}
		lists, watches := map[string]selectors{}, map[string]selectors{}
		for _, a := range c.Actions() {
			switch a := a.(type) {
			case clienttesting.ListAction:
				r := a.GetListRestrictions()
				lists[a.GetResource().Resource] = selectors{r.Labels.String(), r.Fields.String()}
			case clienttesting.WatchAction:
				r := a.GetWatchRestrictions()
				watches[a.GetResource().Resource] = selectors{r.Labels.String(), r.Fields.String()}
			}
		}
		for what, got := range map[string]map[string]selectors{"lists": lists, "watches": watches} {
			if d := cmp.Diff(want, got, cmp.AllowUnexported(selectors{})); d != "" {
				t.Errorf("%s (-want +got):\n%s", what, d)
			}
		}
	})
}

func TestNoNodeName(t *testing.T) {
	run(t, Options{}, []runtime.Object{node("n1", "x")}, nil, func(_ context.Context, c *cluster) {
		c.want("synced")
		for _, a := range c.Actions() {
			if a.GetResource().Resource == "nodes" {
				t.Errorf("nodes were asked for: %v", a)
			}
		}
	})
}

// TestSyncedAfterDelivery has a slow sink: the informers' stores are full long before everything was delivered.
func TestSyncedAfterDelivery(t *testing.T) {
	objects := []runtime.Object{service("a", "10.0.0.1"), service("b", "10.0.0.2"), slice("a-1", 1)}
	slow := func(c *cluster) { c.sink.before = func() { time.Sleep(time.Minute) } }
	run(t, Options{}, objects, slow, func(_ context.Context, c *cluster) {
		time.Sleep(90 * time.Second)
		if got := c.sink.take(); len(got) != 2 || slices.Contains(got, "synced") {
			t.Errorf("after one service and the slice: %q", got)
		}
		time.Sleep(time.Minute)
		if got := c.sink.take(); len(got) != 2 || got[1] != "synced" {
			t.Errorf("after the second service: %q", got)
		}
	})
}

func TestSyncedWaitsForBoth(t *testing.T) {
	for _, missing := range []string{"services", "endpointslices"} {
		t.Run(missing, func(t *testing.T) {
			var mu sync.Mutex // guards down
			down := true
			refuse := func(c *cluster) {
				c.PrependReactor("list", missing, func(clienttesting.Action) (bool, runtime.Object, error) {
					mu.Lock()
					defer mu.Unlock()
					return down, nil, apierrors.NewServiceUnavailable("starting")
				})
			}
			objects := []runtime.Object{service("a", "10.0.0.1"), slice("a-1", 1)}
			run(t, Options{}, objects, refuse, func(_ context.Context, c *cluster) {
				time.Sleep(time.Hour)
				if got := c.sink.take(); len(got) != 1 {
					t.Errorf("calls without %s: %q", missing, got)
				}
				mu.Lock()
				down = false
				mu.Unlock()
				time.Sleep(2 * time.Minute)
				if got := c.sink.take(); len(got) != 2 || got[1] != "synced" {
					t.Errorf("calls with %s: %q", missing, got)
				}
			})
		})
	}
}

func TestServiceCIDRsForbidden(t *testing.T) {
	refuse := func(c *cluster) {
		c.PrependReactor("list", "servicecidrs", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewForbidden(schema.GroupResource{Group: "networking.k8s.io", Resource: "servicecidrs"}, "",
				fmt.Errorf(`User "p" cannot list resource "servicecidrs" in API group "networking.k8s.io" at the cluster scope`))
		})
	}
	run(t, Options{}, []runtime.Object{service("a", "10.0.0.1")}, refuse, func(_ context.Context, c *cluster) {
		c.want("set service shop/a 10.0.0.1")
		time.Sleep(patience)
		c.want("synced")
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		log := c.log.GetBuffer().String()
		for _, want := range []string{
			"this user may not list servicecidrs.networking.k8s.io; bind it to the ClusterRole system:node-proxier, which grants that",
			"everything works, but packets to cluster IPs that no Service has are not dropped",
			"alike since last logged",
		} {
			if !strings.Contains(log, want) {
				t.Errorf("log lacks %q:\n%s", want, log)
			}
		}
		if n := strings.Count(log, "Cannot watch"); n < 5 || n > 10 {
			t.Errorf("%d log lines in ten minutes, want at most one a minute:\n%s", n, log)
		}
	})
}

// TestDeletedWhileDisconnected loses a watch, so that the deletion is seen in the next list only.
func TestDeletedWhileDisconnected(t *testing.T) {
	watchers := make(chan *apiwatch.FakeWatcher, 10)
	own := func(c *cluster) {
		c.PrependWatchReactor("services", func(clienttesting.Action) (bool, apiwatch.Interface, error) {
			w := apiwatch.NewFake()
			watchers <- w
			return true, w, nil
		})
	}
	run(t, Options{}, []runtime.Object{service("a", "10.0.0.1"), service("b", "10.0.0.2")}, own, func(ctx context.Context, c *cluster) {
		c.want("set service shop/a 10.0.0.1", "set service shop/b 10.0.0.2", "synced")
		c.must(nil, c.CoreV1().Services("shop").Delete(ctx, "a", metav1.DeleteOptions{}))
		c.want()
		expired := apierrors.NewResourceExpired("too old").Status()
		(<-watchers).Error(&expired)
		time.Sleep(time.Minute)
		c.want("delete service shop/a", "set service shop/b 10.0.0.2")
		if log := c.log.GetBuffer().String(); log != "" {
			t.Errorf("an expired watch is no failure, but was logged: %s", log)
		}
	})
}

func TestResync(t *testing.T) {
	run(t, Options{Resync: 15 * time.Minute}, []runtime.Object{service("a", "10.0.0.1")}, nil, func(_ context.Context, c *cluster) {
		c.want("set service shop/a 10.0.0.1", "synced")
		time.Sleep(40 * time.Minute)
		c.want("set service shop/a 10.0.0.1", "set service shop/a 10.0.0.1")
	})
}

func TestCausesAndRemedies(t *testing.T) {
	gr := schema.GroupResource{Group: "discovery.k8s.io", Resource: "endpointslices"}
	tests := map[string]struct {
		err    error
		cause  cause
		remedy string
	}{
		"forbidden, wrapped": {
			fmt.Errorf("failed to list *v1.EndpointSlice: %w", apierrors.NewForbidden(gr, "", fmt.Errorf(`User "x" cannot watch resource "endpointslices"`))),
			forbidden, "this user may not watch endpointslices.discovery.k8s.io; bind it to the ClusterRole system:node-proxier, which grants that"},
		"forbidden by a webhook": {apierrors.NewForbidden(gr, "", fmt.Errorf("no")), forbidden, "this user may not list or watch endpointslices"},
		"unauthorized":           {apierrors.NewUnauthorized("x"), unauthorized, "see whether the token"},
		"not served":             {apierrors.NewGenericServerResponse(404, "list", gr, "", "", 0, true), notServed, "does not serve endpointslices.discovery.k8s.io"},
		"expired":                {apierrors.NewResourceExpired("x"), closed, ""},
		"overloaded":             {apierrors.NewTooManyRequests("x", 1), other, ""},
		"stream ended":           {io.ErrUnexpectedEOF, closed, ""},
		"no answer":              {&url.Error{Op: "Get", Err: io.EOF}, unreachable, "cannot be reached"},
		"no name": {
			&url.Error{Op: "Get", Err: &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", IsNotFound: true}}},
			unreachable, "whether the address in the kubeconfig or --master is right"},
	}
	for name, tt := range tests {
		got := causeOf(tt.err)
		if got != tt.cause {
			t.Errorf("%s: cause %d, want %d", name, got, tt.cause)
		}
		if remedy := got.remedy(endpointSlices, tt.err); !strings.Contains(remedy, tt.remedy) || (remedy == "") != (tt.remedy == "") {
			t.Errorf("%s: remedy %q, want %q", name, remedy, tt.remedy)
		}
	}
}

func TestReporterIsQuiet(t *testing.T) {
	now := time.Unix(0, 0)
	r := newReporter()
	r.now = func() time.Time { return now }
	a, b := failure{"services", forbidden}, failure{"services", unreachable}
	for i, step := range []struct {
		f       failure
		after   time.Duration
		omitted int
		ok      bool
	}{
		{a, 0, 0, true}, {a, time.Second, 0, false}, {b, 0, 0, true}, {a, time.Second, 0, false}, {a, time.Minute, 2, true}, {a, 2 * time.Minute, 0, true},
	} {
		now = now.Add(step.after)
		if omitted, ok := r.admit(step.f); omitted != step.omitted || ok != step.ok {
			t.Errorf("step %d: got %d, %v; want %d, %v", i, omitted, ok, step.omitted, step.ok)
		}
	}
	if got := slices.Collect(maps.Keys(r.last)); len(got) != 2 {
		t.Errorf("remembered %v", got)
	}
}
