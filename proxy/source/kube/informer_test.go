package kube

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	clienttesting "k8s.io/client-go/testing"
)

func refused() error {
	return &url.Error{Op: "Get", URL: "https://192.0.2.1:6443/api/v1/services", Err: syscall.ECONNREFUSED}
}

// TestReconnects has an API server that is down for an hour, twice: before it could be asked for anything, and later.
func TestReconnects(t *testing.T) {
	var down atomic.Bool
	down.Store(true)
	var watchers chan *apiwatch.FakeWatcher
	refuse := func(c *cluster) {
		watchers = make(chan *apiwatch.FakeWatcher, 1) // in the bubble, or its time stands still while somebody waits here
		c.PrependReactor("list", "*", func(clienttesting.Action) (bool, runtime.Object, error) { return down.Load(), nil, refused() })
		c.PrependWatchReactor("*", func(a clienttesting.Action) (bool, apiwatch.Interface, error) {
			if down.Load() {
				return true, nil, refused()
			}
			if a.GetResource().Resource != "services" {
				return false, nil, nil
			}
			w := apiwatch.NewFake()
			watchers <- w
			return true, w, nil
		})
	}
	run(t, Options{}, []runtime.Object{service("a", "10.0.0.1")}, refuse, func(_ context.Context, c *cluster) {
		watcher := func() *apiwatch.FakeWatcher {
			select {
			case w := <-watchers:
				return w
			case <-time.After(2 * maxReconnect):
				t.Fatalf("services are not watched:\n%.2000s", c.log.GetBuffer().String())
				return nil
			}
		}
		time.Sleep(time.Hour)
		c.want()
		down.Store(false)
		time.Sleep(2 * maxReconnect)
		c.want("set service shop/a 10.0.0.1", "synced")

		down.Store(true)
		watcher().Stop()
		time.Sleep(time.Hour)
		down.Store(false)
		watcher().Add(service("b", "10.0.0.2"))
		c.want("set service shop/b 10.0.0.2")

		log := c.log.GetBuffer().String()
		for _, want := range []string{"the API server cannot be reached; see whether", "The API server is reached again"} {
			if !strings.Contains(log, want) {
				t.Errorf("log lacks %q:\n%s", want, log)
			}
		}
		// Three kinds of objects were looked for in the first hour and one in the second.
		if n := strings.Count(log, "Cannot watch"); n < 200 || n > 245 {
			t.Errorf("%d log lines, want at most one a minute and kind of object:\n%.2000s", n, log)
		}
	})
}

func TestReachedIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		_, err := reached(ctx, newReporter(), services, func() (int, error) { return 0, refused() })
		if !errors.Is(err, syscall.ECONNREFUSED) || time.Since(start) != time.Minute {
			t.Errorf("ended after %v with %v", time.Since(start), err)
		}
	})
}

// TestReachedLeavesAnswersAlone has errors that are for the informers to handle, which wait longer.
func TestReachedLeavesAnswersAlone(t *testing.T) {
	for _, want := range []error{nil, syscall.ECONNRESET, errors.New("overloaded")} {
		calls := 0
		_, err := reached(t.Context(), newReporter(), services, func() (int, error) { calls++; return 0, want })
		if !errors.Is(err, want) || calls != 1 {
			t.Errorf("%v: got %v after %d calls", want, err, calls)
		}
	}
}

// TestRealErrors has errors of real connections, as the client wraps them.
func TestRealErrors(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	unknown := httptest.NewTLSServer(nil)
	defer unknown.Close()
	unknown.Config.ErrorLog = log.New(io.Discard, "", 0)
	for name, tt := range map[string]struct {
		url  string
		want cause
	}{
		"gone":    {gone.URL, unreachable},
		"unknown": {unknown.URL, untrusted},
	} {
		c, err := NewClient(ClientOptions{Master: tt.url})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.CoreV1().Services("").List(t.Context(), metav1.ListOptions{})
		_, watchErr := c.CoreV1().Services("").Watch(t.Context(), metav1.ListOptions{})
		for _, err := range []error{err, watchErr} {
			if got := causeOf(err); got != tt.want || !unanswered(err) {
				t.Errorf("%s: %v has cause %d, unanswered %v, want %d", name, err, got, unanswered(err), tt.want)
			}
		}
	}
}
