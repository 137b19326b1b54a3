package kube

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"
)

func addressed(kind v1.NodeAddressType, address string) *v1.Node {
	n := node("n1", "x")
	n.Status.Addresses = []v1.NodeAddress{{Type: kind, Address: address}}
	return n
}

func TestNodePredicates(t *testing.T) {
	for n, want := range map[*v1.Node]bool{
		node("n1", ""):                                false,
		addressed(v1.NodeHostName, "192.0.2.1"):       false,
		addressed(v1.NodeInternalIP, "no address"):    false,
		addressed(v1.NodeInternalIP, "192.0.2.1"):     true,
		addressed(v1.NodeExternalIP, "2001:db8::1"):   true,
		addressed(v1.NodeInternalDNS, "n1.internal."): false,
	} {
		if got := HasIP(n); got != want {
			t.Errorf("HasIP of %v: %v", n.Status.Addresses, got)
		}
	}
	if HasPodCIDRs(&v1.Node{}) || !HasPodCIDRs(&v1.Node{Spec: v1.NodeSpec{PodCIDR: "10.0.0.0/24"}}) ||
		!HasPodCIDRs(&v1.Node{Spec: v1.NodeSpec{PodCIDRs: []string{"10.0.0.0/24"}}}) {
		t.Error("HasPodCIDRs is wrong")
	}
}

// waitForNode runs WaitForNode in fake time and returns how long it took.
func waitForNode(t *testing.T, client *fake.Clientset, meanwhile func(context.CancelFunc)) (n *v1.Node, took time.Duration, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		if meanwhile != nil {
			go meanwhile(cancel)
		}
		start := time.Now()
		n, err = WaitForNode(ctx, client, "n1", HasIP, NodePatience)
		took = time.Since(start)
	})
	return n, took, err
}

func TestWaitForNodeThere(t *testing.T) {
	n, took, err := waitForNode(t, fake.NewClientset(addressed(v1.NodeInternalIP, "192.0.2.1")), nil)
	if err != nil || n == nil || took != 0 {
		t.Errorf("got %v after %v, error %v", n, took, err)
	}
}

func TestWaitForNodeComesLater(t *testing.T) {
	client := fake.NewClientset()
	n, took, err := waitForNode(t, client, func(context.CancelFunc) {
		time.Sleep(4500 * time.Millisecond)
		_ = client.Tracker().Add(node("n1", "x"))
		time.Sleep(5 * time.Second)
		_ = client.Tracker().Update(v1.SchemeGroupVersion.WithResource("nodes"), addressed(v1.NodeInternalIP, "192.0.2.1"), "")
	})
	if err != nil || !HasIP(n) || took != 10*time.Second {
		t.Errorf("got %v after %v, error %v", n, took, err)
	}
}

func TestWaitForNodeGivesUp(t *testing.T) {
	unreachableClient := fake.NewClientset()
	unreachableClient.PrependReactor("get", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewUnauthorized("expired")
	})
	for name, tt := range map[string]struct {
		client *fake.Clientset
		seen   bool
		reason string
	}{
		"no node":      {fake.NewClientset(), false, "set it with --hostname-override"},
		"no addresses": {fake.NewClientset(node("n1", "x")), true, "its addresses or pod CIDRs are not there yet"},
		"refused":      {unreachableClient, false, "whether the token or the certificate"},
	} {
		n, took, err := waitForNode(t, tt.client, nil)
		if took != NodePatience || (n != nil) != tt.seen || err == nil || !strings.Contains(err.Error(), tt.reason) {
			t.Errorf("%s: got %v after %v, error %v; want the reason %q", name, n, took, err, tt.reason)
		}
	}
}

func TestWaitForNodeIsStopped(t *testing.T) {
	_, took, err := waitForNode(t, fake.NewClientset(), func(cancel context.CancelFunc) {
		time.Sleep(3 * time.Second)
		cancel()
	})
	if !errors.Is(err, context.Canceled) || took != 3*time.Second {
		t.Errorf("stopped after %v with %v", took, err)
	}
}

// roundTripper is an API server.
type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return r(req) }

// TestWaitForNodeReason has a client whose requests are few: the last one cannot be sent before the wait is over. And one whose
// requests are never answered.
func TestWaitForNodeReason(t *testing.T) {
	for want, server := range map[string]roundTripper{
		"there is no Node of this name": func(*http.Request) (*http.Response, error) {
			body := `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`
			return &http.Response{StatusCode: http.StatusNotFound, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body))}, nil
		},
		"the API server cannot be reached": func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			client, err := kubernetes.NewForConfig(&rest.Config{Host: "http://192.0.2.1", Transport: server, QPS: 0.3, Burst: 1})
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			_, err = WaitForNode(t.Context(), client, "n1", HasIP, NodePatience)
			if err == nil || !strings.Contains(err.Error(), want) || time.Since(start) != NodePatience {
				t.Errorf("after %v got %v, want %q", time.Since(start), err, want)
			}
		})
	}
}
