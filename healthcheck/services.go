package healthcheck

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"turnout/proxy"
	"turnout/proxy/hamt"
)

// ServiceFailure tells why the health-check node port of a Service is not, or not fully, served.
type ServiceFailure struct {
	Name   proxy.ServiceName
	Family proxy.Family
	Port   uint16
	Err    error
}

// ServicesOptions are the settings of Services. All may be left out.
type ServicesOptions struct {
	// Healthy tells whether the proxy is healthy. Without it, as when the proxy's own health server is switched off, it
	// counts as healthy; kube-proxy breaks off such requests.
	Healthy func() bool
	// Failed is told when a port cannot be served, and again when the reason changes. It must return quickly, and must not
	// call Services.
	Failed func(ServiceFailure)
	// Retry is the time between attempts to open what could not be opened, 5 s if zero.
	Retry  time.Duration
	Logger klog.Logger
}

// Services serves the health-check node ports of Services, with one HTTP server for each Service, family and address. All
// methods may be called from any goroutine.
type Services struct {
	opts ServicesOptions

	mu       sync.Mutex // guards what follows
	families map[proxy.Family]*familyServices
	closed   bool
	running  sync.WaitGroup // the goroutines that serve
}

type familyServices struct {
	family     proxy.Family
	wanted     proxy.HealthChecks
	all        bool
	addrs      []netip.Addr
	servers    map[proxy.ServiceName]*serviceServer
	owners     map[uint16]proxy.ServiceName // who serves a port
	incomplete map[proxy.ServiceName]bool   // whose listeners are not, or may not be, as wanted
}

// NewServices returns Services that serve nothing yet, on any address. Run must be called, too.
func NewServices(o ServicesOptions) *Services {
	if o.Retry == 0 {
		o.Retry = retryEvery
	}
	if o.Healthy == nil {
		o.Healthy = func() bool { return true }
	}
	s := &Services{opts: o, families: map[proxy.Family]*familyServices{}}
	for _, f := range proxy.Families {
		s.families[f] = &familyServices{
			family: f, all: true,
			servers: map[proxy.ServiceName]*serviceServer{}, owners: map[uint16]proxy.ServiceName{},
			incomplete: map[proxy.ServiceName]bool{},
		}
	}
	return s
}

// Run tries again and again to open what could not be opened. When the context ends it closes everything, lets requests that
// are under way finish and returns; Sync and SetAddrs do nothing afterwards.
func (s *Services) Run(ctx context.Context) {
	tick := time.NewTicker(s.opts.Retry)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			for _, f := range proxy.Families {
				s.update(f, func(*familyServices) {})
			}
		case <-ctx.Done():
			s.close()
			return
		}
	}
}

// Sync makes a family serve exactly what is wanted. The work is proportional to what changed since the last call, if wanted
// was made from what was wanted then. What could not be opened before is tried again.
func (s *Services) Sync(family proxy.Family, wanted proxy.HealthChecks) {
	s.update(family, func(f *familyServices) {
		changes := hamt.Diff(f.wanted, wanted, func(a, b proxy.HealthCheck) bool { return a == b })
		f.wanted = wanted
		f.lockedApply(changes, s.opts.Logger)
	})
}

// SetAddrs says on which addresses a family listens: on all, or on those listed. Listeners whose address stays are not
// touched. IPv6 link-local addresses are left out: without a zone nobody can listen on them.
func (s *Services) SetAddrs(family proxy.Family, all bool, addrs []netip.Addr) {
	addrs = slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool {
		return all || proxy.FamilyOf(a) != family || a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == ""
	})
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	s.update(family, func(f *familyServices) {
		if f.all == all && slices.Equal(f.addrs, addrs) {
			return
		}
		f.all, f.addrs = all, addrs
		for name := range f.servers {
			f.incomplete[name] = true
		}
	})
}

// update changes a family under the lock, opens and closes listeners accordingly, and reports what fails.
func (s *Services) update(family proxy.Family, change func(*familyServices)) {
	s.mu.Lock()
	var failures []ServiceFailure
	if !s.closed {
		change(s.families[family])
		failures = s.lockedComplete(s.families[family])
	}
	s.mu.Unlock()
	for _, f := range failures {
		s.report(f)
	}
}

func (s *Services) report(f ServiceFailure) {
	s.opts.Logger.Error(f.Err, "Health-check node port is not served", "service", f.Name, "family", f.Family, "port", f.Port)
	if s.opts.Failed != nil {
		s.opts.Failed(f)
	}
}

// lockedApply closes what is not wanted any more, and notes what is to be opened. All closing comes first, so that Services
// can exchange their ports.
func (f *familyServices) lockedApply(changes []hamt.Change[proxy.ServiceName, proxy.HealthCheck], logger klog.Logger) {
	for _, c := range changes {
		if c.Had && (!c.Has || c.Old.Port != c.New.Port) {
			logger.V(2).Info("Closing health-check node port", "service", c.Key, "family", f.family, "port", c.Old.Port)
			f.servers[c.Key].lockedClose()
			f.lockedDisown(c.Key)
		}
	}
	for _, c := range changes {
		if !c.Has {
			continue
		}
		srv := f.servers[c.Key]
		if srv == nil {
			srv = newServiceServer(c.Key, c.New.Port)
			f.servers[c.Key], f.incomplete[c.Key] = srv, true
		}
		srv.localEndpoints.Store(int64(c.New.LocalEndpoints))
	}
}

func (f *familyServices) lockedDisown(name proxy.ServiceName) {
	if port := f.servers[name].port; f.owners[port] == name {
		delete(f.owners, port)
	}
	delete(f.servers, name)
	delete(f.incomplete, name)
}

// lockedComplete brings the listeners of all incomplete servers to what they should be, in the order of their names, and
// returns failures that were not returned before.
func (s *Services) lockedComplete(f *familyServices) (failures []ServiceFailure) {
	names := make([]proxy.ServiceName, 0, len(f.incomplete))
	for name := range f.incomplete {
		names = append(names, name)
	}
	slices.SortFunc(names, proxy.ServiceName.Compare)
	for _, name := range names {
		srv := f.servers[name]
		err := s.lockedOpen(f, srv)
		if err == nil {
			srv.said = ""
			delete(f.incomplete, name)
			continue
		}
		if err.Error() != srv.said {
			srv.said = err.Error()
			failures = append(failures, ServiceFailure{Name: name, Family: f.family, Port: srv.port, Err: err})
		}
	}
	return failures
}

// lockedOpen makes the listeners of one server what they should be.
func (s *Services) lockedOpen(f *familyServices, srv *serviceServer) error {
	if srv.port == 0 {
		return errors.New("spec.healthCheckNodePort is 0: give it the number of a free port")
	}
	if owner, ok := f.owners[srv.port]; ok && owner != srv.name {
		return fmt.Errorf("spec.healthCheckNodePort %d is already served for Service %s: give one of the two another port",
			srv.port, owner)
	}
	f.owners[srv.port] = srv.name
	wanted := f.lockedAddrs()
	for addr := range srv.listeners {
		if !slices.Contains(wanted, addr) {
			srv.lockedCloseAddr(addr)
		}
	}
	var errs []error
	for _, addr := range wanted {
		if srv.listeners[addr] == nil {
			errs = append(errs, s.lockedListen(f, srv, addr))
		}
	}
	return errors.Join(errs...)
}

func (f *familyServices) lockedAddrs() []netip.Addr {
	if !f.all {
		return f.addrs
	}
	if f.family == proxy.IPv6 {
		return []netip.Addr{netip.IPv6Unspecified()}
	}
	return []netip.Addr{netip.IPv4Unspecified()}
}

// close stops all servers for good.
func (s *Services) close() {
	s.mu.Lock()
	s.closed = true
	var stopping sync.WaitGroup
	for _, f := range s.families {
		for _, srv := range f.servers {
			for _, l := range srv.listeners {
				stopping.Go(func() {
					if err := shutdown(l.http); err != nil {
						s.opts.Logger.V(2).Info("Requests were broken off", "service", srv.name, "err", err)
					}
				})
			}
		}
		f.servers = nil
	}
	s.mu.Unlock()
	stopping.Wait()
	s.running.Wait()
}
