package sync

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"turnout/healthcheck"
	"turnout/proxy"
	"turnout/proxy/node"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/objects"
)

// Health-check node ports answer for what the kernel does: with real servers, in real time.
func TestHealthCheckNodePorts(t *testing.T) {
	r := newRig(t, settings{seed: 1, timing: usual.timing, timeout: time.Minute})
	defer r.cancel()
	services := healthcheck.NewServices(healthcheck.ServicesOptions{Healthy: r.health.Healthy})
	r.loop.options.Services = services
	r.loop.inputs.facts.NodePorts = node.NodePortConfig{All: true}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		services.Run(r.ctx)
	}()
	go func() {
		defer close(r.done)
		r.loop.Run(r.ctx)
	}()

	port := freePort(t)
	web := service("web", "10.96.0.1", v1.ProtocolTCP, nodePort(30080), func(s *v1.Service) {
		s.Spec.Type, s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = v1.ServiceTypeLoadBalancer, v1.ServiceExternalTrafficPolicyLocal, int32(port)
	})
	endpoints := slice(web, "10.244.1.2", "10.244.2.2")
	endpoints.Endpoints[0].NodeName = new(proxytest.Addressing().Node)
	r.setRate(1)
	r.loop.SetNode(objects.Node(proxytest.Addressing()))
	r.loop.SetService(web)
	r.loop.SetEndpointSlice(endpoints)
	r.loop.Synced()
	for len(r.faults[proxy.IPv4].tries()) < 2 {
		time.Sleep(time.Millisecond)
	}
	if n, err := localEndpoints(t.Context(), port); err == nil {
		t.Errorf("%d local endpoints before anything is programmed", n)
	}
	r.setRate(0)
	want := func(want int) {
		t.Helper()
		deadline := time.Now().Add(10 * time.Second)
		for {
			n, err := localEndpoints(t.Context(), port)
			if err == nil && n == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d local endpoints (%v), want %d", n, err, want)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	want(1)
	r.loop.SetEndpointSlice(slice(web, "10.244.2.2"))
	want(0)
	r.cancel()
	<-r.done
	<-stopped
}

// freePort returns a TCP port that nobody uses at the moment.
func freePort(t *testing.T) int {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// localEndpoints asks a health-check node port.
func localEndpoints(ctx context.Context, port int) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", port), nil)
	if err != nil {
		return 0, err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var body struct{ LocalEndpoints int }
	err = json.NewDecoder(resp.Body).Decode(&body)
	return body.LocalEndpoints, err
}
