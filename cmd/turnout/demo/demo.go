package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"turnout/proxy"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/lab"
)

// Options say how the demo runs.
type Options struct {
	// Executable is the proxy program, and Args are its flags besides those that the demo needs.
	Executable string
	Args       []string
	// Out is where everything is shown. Terminal tells that it understands colours and the carriage return.
	Out      io.Writer
	Terminal bool
	// Verbose shows the proxy's log as it comes; without it the log is shown if something failed.
	Verbose bool
}

// demo is what the steps work with.
type demo struct {
	*screen
	lab       *lab.Lab
	proxy     *child
	manifests *manifests
	options   Options
}

// step is one thing to show.
type step struct {
	title string
	run   func(*demo, context.Context) error
}

var steps = []step{
	{"Balancing", (*demo).balancing},
	{"Source addresses", (*demo).sources},
	{"Load balancer", (*demo).loadBalancer},
	{"Session affinity", (*demo).affinity},
	{"Nothing to connect to", (*demo).refusals},
	{"An endpoint leaves while connections flow", (*demo).leaving},
	{"UDP clients follow", (*demo).udpLeaving},
	{"The proxy restarts while connections flow", (*demo).restart},
}

// Run shows everything, removes what it made, and returns an error if anything was not as it should be, or could not be shown.
func Run(ctx context.Context, o Options) error {
	d := &demo{screen: newScreen(o.Out, o.Terminal), options: o}
	start := time.Now()
	err := d.run(ctx)
	d.progress("")
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if err != nil || d.failed > 0 {
		d.showLog()
	}
	if err != nil {
		return err
	}
	if d.failed > 0 {
		return fmt.Errorf("%d of %d checks failed", d.failed, d.checks)
	}
	d.printf("\n%d checks in %.1f s, all ok\n", d.checks, time.Since(start).Seconds())
	return nil
}

// showLog prints the end of the proxy's log, unless it was shown already.
func (d *demo) showLog() {
	if d.proxy == nil || d.options.Verbose {
		return
	}
	d.printf("\nThe proxy's log:\n%s\n", d.proxy.logTail())
}

func (d *demo) run(ctx context.Context) (err error) {
	d.progress("building two nodes, five pods and a client")
	if d.lab, err = lab.New(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.lab.Close()) }()
	if err := d.lab.ServeEndpoints(); err != nil {
		return err
	}
	folder, err := newFolder(os.TempDir())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, folder.remove()) }()
	if d.manifests, err = copyManifests(folder.path); err != nil {
		return fmt.Errorf("copy the example manifests: %w", err)
	}
	d.introduce()
	took, err := d.startProxy(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.proxy.stop()) }()
	d.printf("The proxy runs on n1 and served its first connection after %d ms.\n", took.Milliseconds())
	for _, s := range steps {
		d.heading(s.title)
		if err := s.run(d, ctx); err != nil && ctx.Err() == nil {
			d.check(false, "%s: %v", s.title, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := d.proxy.exited(); err != nil {
			return err
		}
	}
	return nil
}

// introduce says who is who.
func (d *demo) introduce() {
	d.printf("A cluster of network namespaces, all real but the machines:\n")
	for _, h := range d.lab.Hosts() {
		what := map[bool]string{true: "pod on " + h.Node, false: "node"}[h.Pod]
		switch {
		case h.Node == "":
			what = "outside client"
		case h.Name == d.lab.Cluster.Node:
			what = "node with the proxy"
		}
		d.printf("  %-7s %-20s %-15s %s\n", h.Name, what, h.Addr(proxy.IPv4), h.Addr(proxy.IPv6))
	}
}

// startProxy starts the proxy and waits until it serves. It returns how long that took.
func (d *demo) startProxy(ctx context.Context) (time.Duration, error) {
	d.progress("starting the proxy")
	start := time.Now()
	child, err := startChild(d.lab.Node(), d.options, d.manifests.folder, d.line)
	if err != nil {
		return 0, err
	}
	d.proxy = child
	// A connection begun before there are rules is tracked as one that is not translated, for two minutes, and so would be a later one from
	// the same port: these attempts have ports that the kernel gives to nobody else.
	const firstPort, ports = 10000, 20000
	attempt := 0
	err = until(ctx, 20*time.Second, func() (bool, error) {
		from := netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(firstPort+attempt%ports))
		attempt++
		o := d.lab.Client().Dial(proxy.TCP, web, lab.DialOptions{Timeout: 50 * time.Millisecond, Source: from})
		return o.Result == lab.Connected, d.proxy.exited()
	})
	if err != nil {
		return 0, errors.Join(fmt.Errorf("start the proxy: %w", err), d.proxy.stop())
	}
	return time.Since(start), nil
}

// until calls done again and again until it returns true or an error. It gives up after some time.
func until(ctx context.Context, patience time.Duration, done func() (bool, error)) error {
	deadline := time.Now().Add(patience)
	for {
		ok, err := done()
		switch {
		case err != nil:
			return err
		case ok:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("nothing happened in %v", patience)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Addresses of the Services in the example manifests.
var (
	web         = netip.MustParseAddrPort("10.96.0.10:80")
	web6        = netip.MustParseAddrPort("[fd00:10:96::10]:80")
	webNodePort = netip.MustParseAddrPort("192.168.50.1:30080")

	shopNodePort  = netip.MustParseAddrPort("192.168.50.1:30081")
	shopNodePort6 = netip.MustParseAddrPort("[fd50::1]:30081")

	api  = netip.MustParseAddrPort("192.168.60.30:80")
	api6 = netip.MustParseAddrPort("[fd60::30]:80")

	dns   = netip.MustParseAddrPort("10.96.0.53:53")
	dns6  = netip.MustParseAddrPort("[fd00:10:96::53]:53")
	cart  = netip.MustParseAddrPort("10.96.0.40:80")
	agent = netip.MustParseAddrPort("10.96.0.50:80")

	empty      = netip.MustParseAddrPort("10.96.0.60:80")
	empty6     = netip.MustParseAddrPort("[fd00:10:96::60]:80")
	webNoPort  = netip.MustParseAddrPort("10.96.0.10:81")
	noService  = netip.MustParseAddrPort("10.96.99.99:80")
	healthPort = netip.MustParseAddrPort("192.168.50.1:32030")
)

// podsOf returns the names of a node's pods, of all if node is "".
func (d *demo) podsOf(node string) []string {
	var names []string
	for _, p := range d.lab.Pods(node) {
		names = append(names, p.Name)
	}
	return names
}

// Prepare makes sure that the demo may make network namespaces. Without privileges it runs the same command again in a user
// namespace and returns its exit code, or -1 if there is no need; the error says in one line why neither is possible.
func Prepare() (code int, err error) { return proxytest.Reexec() }
