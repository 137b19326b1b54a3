package healthcheck

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"
)

const patience = 10 * time.Second

// receive fails the test if nothing arrives in time.
func receive[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: nothing after %v", what, patience)
		panic("unreachable")
	}
}

// occupy takes a port of 127.0.0.1 until the test ends.
func occupy(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

var hello = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })

func TestListenRetriesUntilThePortIsFree(t *testing.T) {
	blocker := occupy(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	failed, listening, ended := make(chan error, 100), make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		ended <- ListenAndServe(ctx, ServerOptions{
			Name: "test server", Addr: blocker.Addr().String(), Handler: hello, Retry: time.Millisecond,
			Failed: func(err error) { failed <- err }, Listening: func(a net.Addr) { listening <- a },
		})
	}()
	err := receive(t, "failure", failed)
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.HasPrefix(err.Error(), "test server cannot listen on 127.0.0.1:") {
		t.Errorf("failure = %v", err)
	}
	time.Sleep(20 * time.Millisecond) // many attempts
	if n := len(failed); n != 0 {
		t.Errorf("the same failure was told %d times more", n)
	}
	_ = blocker.Close()
	addr := receive(t, "listening", listening)
	if got := fetch(t, "http://"+addr.String()); got != "hello" {
		t.Errorf("got %q, want hello", got)
	}
	cancel()
	if err := receive(t, "end", ended); err != nil {
		t.Errorf("ListenAndServe = %v, want nil after the context ended", err)
	}
	if c, err := net.Dial("tcp", addr.String()); err == nil {
		_ = c.Close()
		t.Error("still listening after the end")
	}
}

func TestHardFail(t *testing.T) {
	blocker := occupy(t)
	told := 0
	err := ListenAndServe(t.Context(), ServerOptions{
		Name: "test server", Addr: blocker.Addr().String(), Handler: hello, HardFail: true, Failed: func(error) { told++ },
	})
	if !errors.Is(err, syscall.EADDRINUSE) || told != 1 {
		t.Errorf("ListenAndServe = %v and told %d times, want EADDRINUSE and once", err, told)
	}
}

func TestEndWhileWaiting(t *testing.T) {
	blocker := occupy(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := ListenAndServe(ctx, ServerOptions{
		Name: "test server", Addr: blocker.Addr().String(), Handler: hello, Retry: time.Hour, Failed: func(error) { cancel() },
	})
	if err != nil {
		t.Errorf("ListenAndServe = %v, want nil", err)
	}
}

func TestRequestsFinishBeforeTheEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	listening, begun, ended := make(chan net.Addr, 1), make(chan struct{}), make(chan error, 1)
	slow := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-ctx.Done()
		_, _ = io.WriteString(w, "finished")
	})
	go func() {
		ended <- ListenAndServe(ctx, ServerOptions{
			Name: "test server", Addr: "127.0.0.1:0", Handler: slow, Listening: func(a net.Addr) { listening <- a },
		})
	}()
	addr := receive(t, "listening", listening)
	body := make(chan string, 1)
	go func() { body <- fetch(t, "http://"+addr.String()) }()
	receive(t, "request", begun)
	cancel()
	if got := receive(t, "answer", body); got != "finished" {
		t.Errorf("got %q, want finished", got)
	}
	if err := receive(t, "end", ended); err != nil {
		t.Errorf("ListenAndServe = %v, want nil", err)
	}
}

// An unspecified IPv4 address means both families, as it does in kube-proxy.
func TestUnspecifiedAddressMeansBothFamilies(t *testing.T) {
	needIPv6(t)
	ctx, cancel := context.WithCancel(t.Context())
	listening, ended := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		ended <- ListenAndServe(ctx, ServerOptions{
			Name: "test server", Addr: "0.0.0.0:0", Handler: hello, Listening: func(a net.Addr) { listening <- a },
		})
	}()
	_, port, _ := net.SplitHostPort(receive(t, "listening", listening).String())
	for _, host := range []string{"127.0.0.1", "::1"} {
		if got := fetch(t, "http://"+net.JoinHostPort(host, port)); got != "hello" {
			t.Errorf("%s: got %q, want hello", host, got)
		}
	}
	cancel()
	if err := receive(t, "end", ended); err != nil {
		t.Errorf("ListenAndServe = %v, want nil", err)
	}
}

func needIPv6(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 on the loopback interface: %v", err)
	}
	_ = l.Close()
}

func fetch(t *testing.T, url string) string {
	t.Helper()
	c := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(url)
	if err != nil {
		t.Errorf("get: %v", err)
		return ""
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("read the answer: %v", err)
	}
	return string(b)
}

func newRecorder(h http.Handler, method string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, "/", nil))
	return w
}
