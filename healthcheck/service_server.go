package healthcheck

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"

	"turnout/proxy"
)

// serviceServer serves the health-check node port of one Service in one family. Its fields are guarded by Services.mu, but
// for the number of endpoints, which requests read.
type serviceServer struct {
	name           proxy.ServiceName
	port           uint16
	localEndpoints atomic.Int64
	listeners      map[netip.Addr]*serviceListener
	said           string // the failure that was reported last
}

type serviceListener struct {
	net  net.Listener
	http *http.Server
}

func newServiceServer(name proxy.ServiceName, port uint16) *serviceServer {
	return &serviceServer{name: name, port: port, listeners: map[netip.Addr]*serviceListener{}}
}

// serviceHealth is the body of an answer. Names and order are kube-proxy's.
type serviceHealth struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int64 `json:"localEndpoints"`
	ServiceProxyHealthy bool  `json:"serviceProxyHealthy"`
}

// handler answers any path and method.
func (srv *serviceServer) handler(healthy func() bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		body := serviceHealth{LocalEndpoints: srv.localEndpoints.Load(), ServiceProxyHealthy: healthy()}
		body.Service.Namespace, body.Service.Name = srv.name.Namespace, srv.name.Name
		b, err := json.MarshalIndent(body, "", "\t")
		if err != nil {
			panic(err) // a plain struct
		}
		jsonHeader(w)
		// Load balancers that know this header balance by the number of endpoints behind each node.
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(body.LocalEndpoints, 10))
		if body.LocalEndpoints == 0 || !body.ServiceProxyHealthy {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write(b) // a client that went away needs no answer
	})
}

// lockedListen opens one listener and serves it in the background.
func (s *Services) lockedListen(f *familyServices, srv *serviceServer, addr netip.Addr) error {
	network := "tcp4"
	if f.family == proxy.IPv6 {
		network = "tcp6" // without IPv4, which has a server of its own
	}
	at := netip.AddrPortFrom(addr, srv.port).String()
	l, err := new(net.ListenConfig).Listen(context.Background(), network, at)
	if err != nil {
		return fmt.Errorf("listen on %s for spec.healthCheckNodePort: %w", at, err)
	}
	s.opts.Logger.V(2).Info("Serving health-check node port", "service", srv.name, "address", at)
	sl := &serviceListener{net: l, http: newServer(srv.handler(s.opts.Healthy))}
	srv.listeners[addr] = sl
	s.running.Go(func() {
		if err := sl.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.lost(f, srv, addr, sl, err)
		}
	})
	return nil
}

// lost notes that a listener broke down, so that it is opened again.
func (s *Services) lost(f *familyServices, srv *serviceServer, addr netip.Addr, sl *serviceListener, err error) {
	s.mu.Lock()
	current := !s.closed && f.servers[srv.name] == srv && srv.listeners[addr] == sl
	if current {
		srv.lockedCloseAddr(addr)
		f.incomplete[srv.name] = true
	}
	s.mu.Unlock()
	if current {
		s.report(ServiceFailure{Name: srv.name, Family: f.family, Port: srv.port, Err: fmt.Errorf("serve %s: %w", addr, err)})
	}
}

func (srv *serviceServer) lockedClose() {
	for addr := range srv.listeners {
		srv.lockedCloseAddr(addr)
	}
}

// lockedCloseAddr closes a listener and its connections at once. The listener is closed by itself, too: a server that has
// not begun to serve does not know it yet, and the address must be free on return.
func (srv *serviceServer) lockedCloseAddr(addr netip.Addr) {
	l := srv.listeners[addr]
	_ = l.http.Close() // both can fail only by being closed already
	_ = l.net.Close()
	delete(srv.listeners, addr)
}
