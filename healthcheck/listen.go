package healthcheck

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"k8s.io/klog/v2"
)

const (
	// retryEvery is how long kube-proxy, too, waits before it tries again to listen.
	retryEvery = 5 * time.Second
	// goodbye is how long requests that are under way may take when a server stops.
	goodbye = 2 * time.Second
	// Clients that send their request slowly, or keep idle connections for ever, would otherwise pile up.
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
)

// ServerOptions describe one HTTP server.
type ServerOptions struct {
	// Name is what the server is called in logs and errors, such as "health server".
	Name string
	// Addr is "address:port". An unspecified address, 0.0.0.0 or ::, means every address of both families.
	Addr    string
	Handler http.Handler
	// HardFail makes the first failure final (bindAddressHardFail).
	HardFail bool
	// Failed, if not nil, is told of the first failure, and of later ones when they read differently.
	Failed func(error)
	// Listening, if not nil, is told each time the server begins to listen.
	Listening func(net.Addr)
	// Retry is the pause between attempts, 5 s if zero.
	Retry time.Duration
}

// ListenAndServe serves until the context ends, then lets requests that are under way finish and returns nil. When it cannot
// listen, or stops listening, it tries again and again; with HardFail it returns the error instead.
func ListenAndServe(ctx context.Context, o ServerOptions) error {
	if o.Retry == 0 {
		o.Retry = retryEvery
	}
	logger := klog.FromContext(ctx)
	said := ""
	for {
		listened, err := serve(ctx, &o)
		if ctx.Err() != nil {
			if err != nil {
				logger.V(2).Info("Server was stopped early", "server", o.Name, "err", err)
			}
			return nil
		}
		if listened {
			said = ""
		}
		if err.Error() != said {
			said = err.Error()
			if o.Failed != nil {
				o.Failed(err)
			}
			if o.HardFail {
				return err
			}
			logger.Error(err, "Server is down", "server", o.Name, "address", o.Addr, "retry", o.Retry)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(o.Retry):
		}
	}
}

// serve listens and serves once. The error is nil only after the context ended.
func serve(ctx context.Context, o *ServerOptions) (listened bool, err error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", o.Addr)
	if err != nil {
		return false, fmt.Errorf("%s cannot listen on %s: %w", o.Name, o.Addr, err)
	}
	klog.FromContext(ctx).V(2).Info("Server is up", "server", o.Name, "address", l.Addr().String())
	if o.Listening != nil {
		o.Listening(l.Addr())
	}
	srv := newServer(o.Handler)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		return true, fmt.Errorf("%s on %s: %w", o.Name, o.Addr, err)
	case <-ctx.Done():
		err := shutdown(srv)
		if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return true, err
	}
}

func newServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout}
}

// shutdown stops a server: no new connections at once, no old ones after the time for goodbye.
func shutdown(srv *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		return errors.Join(err, srv.Close())
	}
	return nil
}
