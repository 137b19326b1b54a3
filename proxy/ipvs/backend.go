package ipvs

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/ipvs/genl"
	"turnout/proxy/nftables"
)

// Backend keeps the virtual servers, the addresses and the table of one family. It implements proxy.Backend.
//
// IPVS knows no transactions: a State is carried out in many small steps, in an order in which no step leads traffic to what is not there
// yet, or no longer.
type Backend struct {
	options  Options
	kernel   kernel
	applied  *applied // nil if what the kernel holds is not known
	excluded map[proxy.ServicePortName]exclusion
	now      func() time.Time
	// known are the virtual servers that were ours when the kernel was last known.
	known map[genl.Key]bool
	// turn are the virtual servers whose destinations Check has still to look at in this round.
	turn []genl.Key
}

// An exclusion is a Service that the kernel refused, and until when it is left alone.
type exclusion struct {
	service *proxy.Service
	err     error
	until   time.Time
}

var _ proxy.Backend = (*Backend)(nil)

// Open opens a Backend for Retire and Cleanup, which need nothing that the kernel does not have already. It asks nothing of the kernel.
func Open(o Options) (*Backend, error) { return open(o) }

// New opens a Backend, has the kernel load the module ip_vs, and finds out whether the kernel has what else is needed. The error says what is missing.
func New(o Options) (*Backend, error) {
	o.setDefaults()
	b, err := open(o)
	if err != nil {
		return nil, fmt.Errorf("this node cannot run mode ipvs for %s: %w", o.Family, err)
	}
	if err := b.probe(); err != nil {
		return nil, errors.Join(fmt.Errorf("this node cannot run mode ipvs for %s: %w", o.Family, err), b.Close())
	}
	return b, nil
}

func open(o Options) (*Backend, error) {
	d, err := openDevice(o.Family)
	if err != nil {
		return nil, err
	}
	s, err := genl.Open()
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	g, err := nftables.OpenGate(o.Family)
	if err != nil {
		return nil, errors.Join(err, d.Close(), s.Close())
	}
	return newBackend(o, kernel{servers: s, device: d, gate: g}), nil
}

func newBackend(o Options, k kernel) *Backend {
	o.setDefaults()
	return &Backend{options: o, kernel: k, excluded: map[proxy.ServicePortName]exclusion{}, now: time.Now}
}

// Close closes the Backend's sockets. What it programmed stays.
func (b *Backend) Close() error {
	return errors.Join(b.kernel.servers.Close(), b.kernel.device.Close(), b.kernel.gate.Close())
}

// PortID is the netlink port by which the kernel names this Backend as the author of changes of its table.
func (b *Backend) PortID() uint32 { return b.kernel.gate.PortID() }

// probe sets what the mode needs and tries the rest, out of the way of packets. The virtual server that it makes has an address for documentation (RFC 5737 and 3849).
func (b *Backend) probe() error {
	for _, try := range []func() error{b.options.setUp, b.kernel.gate.Probe, b.kernel.device.Probe} {
		if err := try(); err != nil {
			return err
		}
	}
	at := netip.MustParseAddrPort("198.51.100.0:20000")
	if b.options.Family == proxy.IPv6 {
		at = netip.MustParseAddrPort("[2001:db8::]:20000")
	}
	x := genl.Server{Key: genl.Key{Protocol: proxy.TCP, At: at}, Scheduler: b.options.Scheduler}
	err := b.kernel.servers.AddServer(x)
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("the kernel has no scheduler %q (module ip_vs_%s); choose another one as ipvs.scheduler: %w", x.Scheduler, x.Scheduler, err)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return b.kernel.servers.DeleteServer(x.Key)
}

// Forget is part of proxy.Backend.
func (b *Backend) Forget() {
	if b.applied != nil {
		b.known = map[genl.Key]bool{}
		for key := range b.applied.servers {
			b.known[key] = true
		}
	}
	b.applied = nil
	b.kernel.gate.Forget()
}

// Apply is part of proxy.Backend. Changes are not atomic.
func (b *Backend) Apply(_ context.Context, s *proxy.State) (proxy.Report, error) {
	report, err := b.apply(s)
	if err != nil {
		b.Forget()
		return proxy.Report{}, err
	}
	for name, x := range b.excluded {
		report.Rejected = append(report.Rejected, proxy.Rejection{Name: name, Err: x.err})
	}
	slices.SortFunc(report.Rejected, func(x, y proxy.Rejection) int { return x.Name.Compare(y.Name) })
	return report, nil
}

func (b *Backend) apply(s *proxy.State) (proxy.Report, error) {
	// Another Node may mean other addresses for NodePorts, other addresses that are the node's own, and a table that is replaced.
	if b.applied != nil && !b.applied.state.Node.Equal(s.Node) {
		b.Forget()
	}
	if b.applied != nil {
		operations, refused, err := b.step(b.accepted(s))
		if err == nil && len(refused) == 0 {
			return proxy.Report{Operations: operations}, nil
		}
		// Either the kernel does not hold what it was believed to, or a Service is refused: the rebuild tells.
		b.Forget()
	}
	if err := b.begin(); err != nil {
		return proxy.Report{}, err
	}
	report, next := proxy.Report{Full: true}, b.accepted(s)
	var err error
	if b.applied, err = b.read(next); err != nil {
		return report, err
	}
	for {
		pruned, err := b.prune(next)
		report.Operations += pruned
		if err != nil {
			return report, err
		}
		operations, refused, err := b.step(next)
		report.Operations += operations
		if err != nil {
			return report, err
		}
		if len(refused) == 0 {
			b.known = nil
			return report, nil
		}
		next = new(*next) // the one before is what is applied
		for name, err := range refused {
			service, _ := s.Services.Get(name)
			b.excluded[name] = exclusion{service, err, b.now().Add(b.options.RetryRejected)}
			next.Services = next.Services.Delete(name)
		}
	}
}

// begin sees to what everything else needs.
func (b *Backend) begin() error {
	if err := b.options.setUp(); err != nil {
		return err
	}
	if err := b.kernel.servers.SetTimeouts(b.options.Timeouts); err != nil {
		return err
	}
	return b.kernel.device.Make()
}

// accepted returns the State without the Services that were refused and are to be left alone. One that changed is tried again.
func (b *Backend) accepted(s *proxy.State) *proxy.State {
	out := *s
	for name, x := range b.excluded {
		if is, ok := s.Services.Get(name); !ok || is != x.service || !b.now().Before(x.until) {
			delete(b.excluded, name)
			continue
		}
		out.Services = out.Services.Delete(name)
	}
	return &out
}

// step makes the kernel follow a State. refused names Services of which something could not be done.
func (b *Backend) step(s *proxy.State) (operations int, refused map[proxy.ServicePortName]error, err error) {
	own := b.applied.own
	operations, rejected, err := b.kernel.gate.Admit(s, func(a netip.Addr) bool { return own[a] })
	if err != nil {
		return 0, nil, err
	}
	refused = map[proxy.ServicePortName]error{}
	for _, r := range rejected {
		refused[r.Name] = r.Err
	}
	if len(refused) > 0 {
		return operations, refused, nil
	}
	var added []netip.Addr
	changes := b.applied.diff(&b.options, s)
	for i := range changes {
		c := &changes[i]
		// What goes must go, whatever became of the rest of its Service.
		removal := c.kind == deleteAddress || c.kind == deleteServer
		if refused[c.owner] != nil && !removal {
			continue
		}
		switch err := b.do(c); {
		case err == nil:
			operations++
			if c.kind == addAddress {
				added = append(added, c.addr)
			}
		case removal || unexpected(err):
			return operations, nil, err
		case c.kind == addAddress:
			b.refuseAt(refused, c.addr, err)
		default:
			refused[c.owner] = err
		}
	}
	if len(refused) > 0 {
		return operations, refused, nil
	}
	if err := b.kernel.device.Await(added...); err != nil {
		return operations, nil, err
	}
	retired, err := b.kernel.gate.Retire()
	return operations + retired, nil, err
}

// unexpected tells that the kernel does not hold what it was believed to, or that IPVS has gone: it is no Service's fault.
func unexpected(err error) bool {
	return slices.ContainsFunc([]error{unix.EEXIST, unix.ENOENT, unix.ESRCH, unix.ENODEV}, func(e error) bool { return errors.Is(err, e) })
}

// refuseAt refuses all Services that have an address.
func (b *Backend) refuseAt(refused map[proxy.ServicePortName]error, addr netip.Addr, err error) {
	for key, v := range b.applied.servers {
		if key.At.Addr() == addr {
			refused[v.owner] = err
		}
	}
}

// Cleanup is part of proxy.Backend. Virtual servers that are excluded from deletion stay.
func (b *Backend) Cleanup(context.Context) error {
	b.Forget()
	a, err := b.read(&proxy.State{Family: b.options.Family, Node: &proxy.Node{}})
	if err != nil {
		return err
	}
	b.applied = a
	_, err = b.prune(&proxy.State{Family: b.options.Family, Node: &proxy.Node{}})
	b.Forget()
	if err != nil {
		return err
	}
	return errors.Join(b.kernel.device.Remove(), b.kernel.gate.Cleanup())
}
