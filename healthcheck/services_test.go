package healthcheck

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
)

var (
	loopback  = netip.MustParseAddr("127.0.0.1")
	loopback2 = netip.MustParseAddr("127.0.0.2")
	loopback6 = netip.MustParseAddr("::1")
	web       = proxy.ServiceName{Namespace: "shop", Name: "web"}
	api       = proxy.ServiceName{Namespace: "shop", Name: "api"}
)

// lab is a Services under test, with its clients.
type lab struct {
	*Services
	t        *testing.T
	healthy  atomic.Bool
	mu       sync.Mutex // guards failures
	failures []ServiceFailure
	client   http.Client
	stop     func() // ends Run and waits for it
}

func newLab(t *testing.T, retry time.Duration) *lab {
	l := &lab{t: t}
	l.healthy.Store(true)
	l.Services = NewServices(ServicesOptions{Healthy: l.healthy.Load, Retry: retry, Failed: func(f ServiceFailure) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.failures = append(l.failures, f)
	}})
	l.SetAddrs(proxy.IPv4, false, []netip.Addr{loopback})
	l.client.Transport = &http.Transport{}
	l.client.Timeout = patience
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); l.Run(ctx) }()
	l.stop = func() { cancel(); receive(t, "end of Run", ended) }
	t.Cleanup(func() { l.client.CloseIdleConnections(); l.stop() })
	return l
}

func (l *lab) told() (out []ServiceFailure) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out, l.failures = l.failures, nil
	return out
}

func (l *lab) wantNoFailure() {
	l.t.Helper()
	if f := l.told(); f != nil {
		l.t.Errorf("unexpected failures: %v", f)
	}
}

// wanted makes a wanted state out of triples (name, port, endpoints).
func wanted(base proxy.HealthChecks, name proxy.ServiceName, port uint16, endpoints int) proxy.HealthChecks {
	return base.Set(name, proxy.HealthCheck{Port: port, LocalEndpoints: endpoints})
}

var nothing proxy.HealthChecks

// freePorts returns ports of 127.0.0.1 that nobody uses.
func freePorts(t *testing.T, n int) []uint16 {
	t.Helper()
	var out []uint16
	for range n {
		l := occupy(t)
		defer func() { _ = l.Close() }()
		out = append(out, portOf(l))
	}
	return out
}

func portOf(l net.Listener) uint16 { return netip.MustParseAddrPort(l.Addr().String()).Port() }

type serviceAnswer struct {
	Code         int
	Weight, Body string
	Reused       bool // the connection existed before
}

func (l *lab) ask(addr netip.Addr, port uint16) (serviceAnswer, error) {
	var a serviceAnswer
	ctx := httptrace.WithClientTrace(l.t.Context(), &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { a.Reused = i.Reused },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+netip.AddrPortFrom(addr, port).String()+"/any", nil)
	if err != nil {
		return a, err
	}
	resp, err := l.client.Do(req)
	if err != nil {
		return a, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	a.Code, a.Weight, a.Body = resp.StatusCode, resp.Header.Get("X-Load-Balancing-Endpoint-Weight"), string(b)
	return a, err
}

// wantServed checks who answers, and with what code.
func (l *lab) wantServed(addr netip.Addr, port uint16, name proxy.ServiceName, code int) serviceAnswer {
	l.t.Helper()
	a, err := l.ask(addr, port)
	if err != nil {
		l.t.Errorf("%v: %v", addr, err)
	} else if a.Code != code || !strings.Contains(a.Body, strconv.Quote(name.Name)) {
		l.t.Errorf("%v answers %d %s, want %d for %v", addr, a.Code, a.Body, code, name)
	}
	return a
}

func (l *lab) wantClosed(addr netip.Addr, port uint16) {
	l.t.Helper()
	if a, err := l.ask(addr, port); !errors.Is(err, syscall.ECONNREFUSED) {
		l.t.Errorf("%v port %d: answer %+v, error %v, want connection refused", addr, port, a, err)
	}
}

// eventually repeats a request until somebody answers.
func (l *lab) eventually(addr netip.Addr, port uint16) {
	l.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if _, err := l.ask(addr, port); err == nil {
			return
		} else if time.Now().After(deadline) {
			l.t.Fatalf("nobody listens on %v port %d: %v", addr, port, err)
		}
	}
}

func TestServiceAnswer(t *testing.T) {
	l := newLab(t, time.Hour)
	port := freePorts(t, 1)[0]
	body := func(endpoints, healthy string) string {
		return "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n" +
			"\t\"localEndpoints\": " + endpoints + ",\n\t\"serviceProxyHealthy\": " + healthy + "\n}"
	}
	for _, c := range []struct {
		endpoints int
		healthy   bool
		want      serviceAnswer
	}{
		{2, true, serviceAnswer{200, "2", body("2", "true"), false}},
		{0, true, serviceAnswer{503, "0", body("0", "true"), true}},
		{0, false, serviceAnswer{503, "0", body("0", "false"), true}},
		{1, false, serviceAnswer{503, "1", body("1", "false"), true}},
		{1, true, serviceAnswer{200, "1", body("1", "true"), true}},
	} {
		l.healthy.Store(c.healthy)
		l.Sync(proxy.IPv4, wanted(nothing, web, port, c.endpoints))
		got, err := l.ask(loopback, port)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%d endpoints, healthy %v (-want +got):\n%s", c.endpoints, c.healthy, diff)
		}
	}
	l.wantNoFailure()
}

func TestServiceHeadersAndMethods(t *testing.T) {
	srv := newServiceServer(web, 1)
	srv.localEndpoints.Store(3)
	for _, method := range []string{http.MethodHead, http.MethodPost} {
		w := newRecorder(srv.handler(func() bool { return true }), method)
		want := http.Header{
			"Content-Type": {"application/json"}, "X-Content-Type-Options": {"nosniff"},
			"X-Load-Balancing-Endpoint-Weight": {"3"},
		}
		if diff := cmp.Diff(want, w.Header()); diff != "" || w.Code != 200 {
			t.Errorf("%s = %d, headers (-want +got):\n%s", method, w.Code, diff)
		}
	}
}

func TestWithoutHealthProviderCountsAsHealthy(t *testing.T) {
	s := NewServices(ServicesOptions{})
	srv := newServiceServer(web, 1)
	srv.localEndpoints.Store(1)
	if w := newRecorder(srv.handler(s.opts.Healthy), http.MethodGet); w.Code != 200 {
		t.Errorf("answer = %d, want 200", w.Code)
	}
}

func TestServicesComeAndGo(t *testing.T) {
	l := newLab(t, time.Hour)
	p := freePorts(t, 3)
	both := wanted(wanted(nothing, web, p[0], 1), api, p[1], 0)
	l.Sync(proxy.IPv4, both)
	l.wantServed(loopback, p[0], web, 200)
	l.wantServed(loopback, p[1], api, 503)

	// A port changes, the other Service is not disturbed.
	moved := wanted(both, web, p[2], 1)
	l.Sync(proxy.IPv4, moved)
	l.wantClosed(loopback, p[0])
	l.wantServed(loopback, p[2], web, 200)
	if !l.wantServed(loopback, p[1], api, 503).Reused {
		t.Error("the connection of a Service that did not change was closed")
	}

	// Services exchange their ports.
	l.Sync(proxy.IPv4, wanted(wanted(nothing, api, p[2], 1), web, p[1], 1))
	l.wantServed(loopback, p[2], api, 200)
	l.wantServed(loopback, p[1], web, 200)

	l.Sync(proxy.IPv4, nothing)
	l.wantClosed(loopback, p[1])
	l.wantClosed(loopback, p[2])
	l.wantNoFailure()
}

func TestAddressesAreFollowed(t *testing.T) {
	l := newLab(t, time.Hour)
	p := freePorts(t, 1)
	l.Sync(proxy.IPv4, wanted(nothing, web, p[0], 1))
	l.wantServed(loopback, p[0], web, 200)
	l.wantClosed(loopback2, p[0])

	l.SetAddrs(proxy.IPv4, false, []netip.Addr{loopback2, loopback, loopback2, loopback6})
	l.wantServed(loopback2, p[0], web, 200)
	if !l.wantServed(loopback, p[0], web, 200).Reused {
		t.Error("the connection to an address that stayed was closed")
	}
	l.SetAddrs(proxy.IPv4, false, []netip.Addr{loopback2})
	l.wantClosed(loopback, p[0])
	if !l.wantServed(loopback2, p[0], web, 200).Reused {
		t.Error("the connection to an address that stayed was closed")
	}
	l.SetAddrs(proxy.IPv4, true, nil)
	l.wantServed(loopback, p[0], web, 200)
	l.SetAddrs(proxy.IPv4, true, []netip.Addr{loopback}) // any address, whatever is listed
	if !l.wantServed(loopback, p[0], web, 200).Reused {
		t.Error("the connection was closed without a change")
	}
	l.SetAddrs(proxy.IPv4, false, nil)
	l.wantClosed(loopback, p[0])
	l.wantClosed(loopback2, p[0])
	l.SetAddrs(proxy.IPv4, false, []netip.Addr{loopback})
	l.wantServed(loopback, p[0], web, 200)
	l.wantNoFailure()
}

func TestFamiliesAreServedSeparately(t *testing.T) {
	needIPv6(t)
	l := newLab(t, time.Hour)
	p := freePorts(t, 1)
	l.SetAddrs(proxy.IPv4, true, nil)
	l.Sync(proxy.IPv4, wanted(nothing, web, p[0], 1))
	l.Sync(proxy.IPv6, wanted(nothing, web, p[0], 0))
	l.wantServed(loopback, p[0], web, 200)
	l.wantServed(loopback6, p[0], web, 503)
	l.Sync(proxy.IPv4, nothing)
	l.wantClosed(loopback, p[0])
	l.wantServed(loopback6, p[0], web, 503)
	l.SetAddrs(proxy.IPv6, false, []netip.Addr{loopback6, netip.MustParseAddr("fe80::1")})
	l.wantServed(loopback6, p[0], web, 503)
	l.wantNoFailure()
}

// wantFailure checks the only failure told, and its message.
func (l *lab) wantFailure(name proxy.ServiceName, port uint16, message string) {
	l.t.Helper()
	f := l.told()
	if len(f) != 1 || f[0].Name != name || f[0].Port != port || f[0].Family != proxy.IPv4 || !strings.Contains(f[0].Err.Error(), message) {
		l.t.Errorf("failures = %v, want one of %v port %d: %s", f, name, port, message)
	}
}

func TestBindFailureIsToldOnceAndRetriedAtSync(t *testing.T) {
	l := newLab(t, time.Hour)
	blocker := occupy(t)
	port := portOf(blocker)
	want := wanted(nothing, web, port, 1)
	l.Sync(proxy.IPv4, want)
	l.wantFailure(web, port, "address already in use")
	l.Sync(proxy.IPv4, want)
	l.wantNoFailure()

	// The other addresses are served meanwhile.
	l.SetAddrs(proxy.IPv4, false, []netip.Addr{loopback, loopback2})
	l.wantServed(loopback2, port, web, 200)

	_ = blocker.Close()
	l.Sync(proxy.IPv4, want)
	l.wantServed(loopback, port, web, 200)
	l.wantNoFailure()
}

func TestBindFailureIsRetriedByTime(t *testing.T) {
	l := newLab(t, time.Millisecond)
	blocker := occupy(t)
	port := portOf(blocker)
	l.Sync(proxy.IPv4, wanted(nothing, web, port, 1))
	l.wantFailure(web, port, "address already in use")
	_ = blocker.Close()
	l.eventually(loopback, port)
	l.wantServed(loopback, port, web, 200)
	l.wantNoFailure()
}

func TestFailedServiceThatGoesIsForgotten(t *testing.T) {
	l := newLab(t, time.Millisecond)
	blocker := occupy(t)
	port := portOf(blocker)
	l.Sync(proxy.IPv4, wanted(nothing, web, port, 1))
	l.wantFailure(web, port, "address already in use")
	l.Sync(proxy.IPv4, nothing)
	_ = blocker.Close()
	time.Sleep(20 * time.Millisecond) // many retries
	l.wantClosed(loopback, port)
}

func TestSamePortOfTwoServices(t *testing.T) {
	l := newLab(t, time.Hour)
	p := freePorts(t, 1)
	first := wanted(nothing, web, p[0], 1)
	l.Sync(proxy.IPv4, first)
	both := wanted(first, api, p[0], 1)
	l.Sync(proxy.IPv4, both)
	l.wantFailure(api, p[0], "already served for Service shop/web: give one of the two another port")
	l.wantServed(loopback, p[0], web, 200)

	l.Sync(proxy.IPv4, both.Delete(web))
	if l.wantServed(loopback, p[0], api, 200).Reused {
		t.Error("a connection to the first Service is now answered by the second")
	}
	l.wantNoFailure()

	// If both are new, the order of names decides.
	l.Sync(proxy.IPv4, nothing)
	l.Sync(proxy.IPv4, both)
	l.wantFailure(web, p[0], "already served for Service shop/api")
	l.wantServed(loopback, p[0], api, 200)
}

func TestPortZeroIsAnError(t *testing.T) {
	l := newLab(t, time.Hour)
	l.Sync(proxy.IPv4, wanted(nothing, web, 0, 1))
	l.wantFailure(web, 0, "spec.healthCheckNodePort is 0")
}

func TestBrokenListenerIsReplaced(t *testing.T) {
	l := newLab(t, time.Millisecond)
	p := freePorts(t, 1)
	l.Sync(proxy.IPv4, wanted(nothing, web, p[0], 1))
	l.wantServed(loopback, p[0], web, 200)
	l.Services.mu.Lock()
	_ = l.families[proxy.IPv4].servers[web].listeners[loopback].net.Close()
	l.Services.mu.Unlock()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		f := l.told()
		if len(f) > 0 {
			if !errors.Is(f[0].Err, net.ErrClosed) || f[0].Name != web {
				t.Errorf("failure = %v, want that of %v's closed listener", f[0], web)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the broken listener was not noticed")
		}
	}
	l.eventually(loopback, p[0])
	l.wantServed(loopback, p[0], web, 200)
}

func TestEndClosesAll(t *testing.T) {
	l := newLab(t, time.Hour)
	p := freePorts(t, 2)
	first := wanted(nothing, web, p[0], 1)
	l.Sync(proxy.IPv4, first)
	l.wantServed(loopback, p[0], web, 200)
	l.stop()
	l.wantClosed(loopback, p[0])
	l.Sync(proxy.IPv4, wanted(first, api, p[1], 1))
	l.SetAddrs(proxy.IPv4, true, nil)
	l.wantClosed(loopback, p[0])
	l.wantClosed(loopback, p[1])
	l.wantNoFailure()
}
