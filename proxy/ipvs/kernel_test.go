package ipvs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/ipvs/genl"
	"turnout/proxy/node"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/cases"
	"turnout/proxy/proxytest/lab"
)

// needIPVS skips the test where the kernel has no IPVS. It asks for the module, as a node's proxy would.
func needIPVS(t *testing.T) {
	t.Helper()
	s, err := genl.Open()
	if errors.Is(err, unix.ENOENT) {
		t.Skipf("needs a kernel with IPVS: %v", err)
	}
	if err != nil {
		t.Skipf("needs the right to use IPVS: %v", err)
	}
	_ = s.Close()
}

// newKernelBackend opens a Backend in the namespace of the calling thread.
func newKernelBackend(t *testing.T, o Options) *Backend {
	t.Helper()
	o.Sysctl = node.Proc("/proc")
	b, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func apply(t *testing.T, b *Backend, s *proxy.State) proxy.Report {
	t.Helper()
	r, err := b.Apply(t.Context(), s)
	if err != nil || len(r.Rejected) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	return r
}

// What ipvsadm and nft list is the text, for each case.
func TestKernelGolden(t *testing.T) {
	needIPVS(t)
	for _, c := range cases.All(t) {
		t.Run(c.Name, func(t *testing.T) {
			proxytest.InNamespace(t, func() {
				for _, s := range c.States {
					b := newKernelBackend(t, Options{Family: s.Family})
					apply(t, b, s)
					want, _, _ := strings.Cut(textOf(t, s), "table ")
					if d := cmp.Diff(want, listed(t, b)); d != "" {
						t.Errorf("%s: -text +kernel:\n%s", s.Family, d)
					}
					if err := b.Cleanup(t.Context()); err != nil {
						t.Error(err)
					}
				}
				if _, err := netlink.LinkByName(Device); err == nil {
					t.Errorf("Cleanup left interface %s", Device)
				}
				if left := run(t, "ipvsadm", "-S", "-n"); left != "" {
					t.Errorf("Cleanup left\n%s", left)
				}
			})
		})
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// listed is what the kernel has of virtual servers and addresses, in the words of WriteText.
func listed(t *testing.T, b *Backend) string {
	t.Helper()
	ours, _, err := b.kernel.device.Addresses()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, a := range sortedAddrs(ours) {
		fmt.Fprintf(&out, "ip address add %s dev %s\n", netip.PrefixFrom(a, a.BitLen()), Device)
	}
	servers := strings.Split(strings.TrimSpace(run(t, "ipvsadm", "-S", "-n")), "-A ")
	var blocks []string
	for _, x := range servers[1:] {
		lines := strings.Split(strings.TrimSpace(x), "\n")
		destinations := lines[1:]
		for i := range destinations {
			destinations[i] = strings.TrimSpace(destinations[i])
		}
		slices.SortFunc(destinations, func(x, y string) int { return destinationOf(x).Compare(destinationOf(y)) })
		blocks = append(blocks, strings.Join(append([]string{"-A " + strings.TrimSpace(lines[0])}, destinations...), "\n"))
	}
	slices.SortFunc(blocks, func(x, y string) int { return serverOf(x).Compare(serverOf(y)) })
	for _, x := range blocks {
		out.WriteString(x + "\n")
	}
	return out.String()
}

func sortedAddrs(set map[netip.Addr]bool) (out []netip.Addr) {
	for a := range set {
		out = append(out, a)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

func serverOf(line string) genl.Key {
	fields := strings.Fields(line)
	protocol := map[string]proxy.Protocol{"-t": proxy.TCP, "-u": proxy.UDP, "--sctp-service": proxy.SCTP}[fields[1]]
	return genl.Key{Protocol: protocol, At: netip.MustParseAddrPort(fields[2])}
}

func destinationOf(line string) netip.AddrPort {
	fields := strings.Fields(line)
	return netip.MustParseAddrPort(fields[slices.Index(fields, "-r")+1])
}

// Real packets get where the tracer says, but for the declared limits, from everybody to every frontend of every case and of random States.
func TestKernelRandom(t *testing.T) {
	needIPVS(t)
	for _, f := range proxy.Families {
		t.Run(f.String(), func(t *testing.T) { mode.Traffic(t, f) })
	}
}

// mode is how the packets of mode ipvs are looked at. An emulated processor may be too slow for many at a time.
var mode = cases.Mode{
	Open:        func(t *testing.T, f proxy.Family) proxy.Backend { return newKernelBackend(t, Options{Family: f}) },
	Expressible: Expressible, Seed: 1, Random: 4, Most: 80, Slowly: true,
}

// inNode runs fn in the namespace of the node under test.
func inNode(t *testing.T, l *lab.Lab, fn func()) {
	t.Helper()
	if err := l.Node().Do(func() error { fn(); return nil }); err != nil {
		t.Fatal(err)
	}
}

// What others remove is found and comes back, and traffic with it.
func TestKernelHeal(t *testing.T) {
	needIPVS(t)
	l := lab.ForTest(t)
	if err := l.ServeEndpoints(); err != nil {
		t.Fatal(err)
	}
	s := proxytest.NewState(proxy.IPv4, web("10.244.1.2:8080 local", "10.244.2.2:8080"))
	packets := proxytest.Packets(s, l.Cluster)
	var b *Backend
	inNode(t, l, func() {
		b = newKernelBackend(t, Options{Family: proxy.IPv4})
		apply(t, b, s)
	})
	for _, damage := range []string{
		"ipvsadm -D -t 10.96.0.1:80", "ipvsadm -D -t 192.168.50.1:30080", "ipvsadm -C", "ipvsadm -d -t 10.96.0.1:80 -r 10.244.2.2:8080",
		"ip address del 10.96.0.1/32 dev kube-ipvs0", "ip link del kube-ipvs0", "nft delete table ip kube-proxy-ipvs",
	} {
		inNode(t, l, func() {
			run(t, "sh", "-c", damage)
			if found, err := b.Check(t.Context()); found == "" || err != nil {
				t.Errorf("%s: %q, %v", damage, found, err)
			}
			b.Forget()
			apply(t, b, s)
			if found, err := b.Check(t.Context()); found != "" || err != nil {
				t.Errorf("%s: mended, but %q, %v", damage, found, err)
			}
		})
		for _, err := range l.VerifySlowly(Expressible(s), packets) {
			t.Errorf("%s: %v", damage, err)
		}
	}
}

// A connection to an endpoint that goes lives on, through a restart of the proxy too, and new ones are not sent there; when it ends, the endpoint is deleted.
func TestKernelGracefulRemoval(t *testing.T) {
	needIPVS(t)
	l := lab.ForTest(t)
	if err := l.ServeEndpoints(); err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort("10.244.2.2:8080")
	var b *Backend
	open := func(endpoints ...string) {
		t.Helper()
		inNode(t, l, func() {
			b = newKernelBackend(t, Options{Family: proxy.IPv4})
			apply(t, b, proxytest.NewState(proxy.IPv4, web(endpoints...)))
		})
	}
	weight := func() (weight int, connections uint32) {
		t.Helper()
		list, err := b.kernel.servers.Destinations(key(proxy.TCP, "10.96.0.1:80"))
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range list {
			if d.At == at {
				return int(d.Weight), d.Active + d.Inactive
			}
		}
		return -1, 0
	}
	open(at.String())
	conn, err := l.Client().DialContext(t.Context(), "tcp", "10.96.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	lines := bufio.NewReader(conn)
	if _, err := lines.ReadString('\n'); err != nil { // what a server says first
		t.Fatal(err)
	}
	open("10.244.1.2:8080 local")
	check := func() {
		t.Helper()
		if damage, err := b.Check(t.Context()); damage != "" || err != nil {
			t.Fatalf("%q, %v", damage, err)
		}
	}
	check()
	if w, n := weight(); w != 0 || n != 1 {
		t.Fatalf("with an open connection: weight %d, %d connections", w, n)
	}
	s := proxytest.NewState(proxy.IPv4, web("10.244.1.2:8080 local"))
	for _, err := range l.VerifySlowly(Expressible(s), proxytest.Packets(s, l.Cluster)) {
		t.Error(err)
	}
	number := make([]byte, 8) // the server sends it back
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write(number); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(lines, number); err != nil {
		t.Errorf("the connection did not live on: %v", err)
	}
	// A reset ends it at once, a close after two minutes.
	if err := conn.(interface{ SetLinger(int) error }).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Second) {
		check()
		if w, n := weight(); w < 0 {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("after the connection: weight %d, %d connections", w, n)
		}
	}
}

// What the kernel says of virtual servers and destinations that are there already, or not at all.
func TestKernelUnexpected(t *testing.T) {
	needIPVS(t)
	proxytest.InNamespace(t, func() {
		for _, at := range []string{"10.96.0.1:80", "[fd00:96::1]:80"} {
			x := genl.Server{Key: key(proxy.TCP, at), Scheduler: "rr"}
			d := genl.Destination{At: netip.AddrPortFrom(x.At.Addr().Next(), 8080), Weight: 1}
			s := newKernelBackend(t, Options{Family: x.Family()}).kernel.servers
			check := func(what string, err, want error) {
				t.Helper()
				if !errors.Is(err, want) || want == nil && err != nil {
					t.Errorf("%s: %s: %v, want %v", at, what, err, want)
				}
				if want != nil && !unexpected(err) {
					t.Errorf("%s: %s: %v would be a Service's fault", at, what, err)
				}
			}
			check("set a server that is not there", s.SetServer(x), unix.ESRCH)
			check("delete one", s.DeleteServer(x.Key), unix.ESRCH)
			check("add a destination to one", s.AddDestination(x.Key, d), unix.ESRCH)
			if list, err := s.Destinations(x.Key); err != nil || len(list) > 0 {
				t.Errorf("%s: destinations of a server that is not there: %v, %v", at, list, err)
			}
			check("add a server", s.AddServer(x), nil)
			check("add it again", s.AddServer(x), unix.EEXIST)
			check("set a destination that is not there", s.SetDestination(x.Key, d), unix.ENOENT)
			check("delete one", s.DeleteDestination(x.Key, d.At), unix.ENOENT)
			check("add a destination", s.AddDestination(x.Key, d), nil)
			check("add it again", s.AddDestination(x.Key, d), unix.EEXIST)
			check("delete the server", s.DeleteServer(x.Key), nil)
		}
	})
}

// Options reach the kernel.
func TestKernelOptions(t *testing.T) {
	needIPVS(t)
	proxytest.InNamespace(t, func() {
		want := genl.Timeouts{TCP: 15 * time.Minute, TCPFin: 30 * time.Second, UDP: time.Minute}
		for _, scheduler := range []string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "mh", "fo", "ovf"} {
			b := newKernelBackend(t, Options{Family: proxy.IPv4, Scheduler: scheduler, StrictARP: true, Timeouts: want})
			apply(t, b, proxytest.NewState(proxy.IPv4, web("10.244.1.2:8080")))
			if listed := run(t, "ipvsadm", "-S", "-n"); !strings.Contains(listed, "-A -t 10.96.0.1:80 -s "+scheduler) || scheduler == "mh" != strings.Contains(listed, "mh-port") {
				t.Errorf("%s:\n%s", scheduler, listed)
			}
			if damage, err := b.Check(t.Context()); damage != "" || err != nil {
				t.Errorf("%s: %q, %v", scheduler, damage, err)
			}
		}
		s, err := genl.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if got, err := s.Timeouts(); err != nil || got != want {
			t.Errorf("timeouts %+v, %v, want %+v", got, err, want)
		}
		for name, want := range map[string]string{"net/ipv4/vs/conntrack": "1", "net/ipv4/conf/all/arp_ignore": "1", "net/ipv4/conf/all/arp_announce": "2"} {
			if got, err := node.Proc("/proc").Read(name); err != nil || got != want {
				t.Errorf("%s is %q, %v, want %q", name, got, err, want)
			}
		}
		_, err = New(Options{Family: proxy.IPv4, Scheduler: "nonsense", Sysctl: node.Proc("/proc")})
		if err == nil || !strings.Contains(err.Error(), `no scheduler "nonsense"`) {
			t.Errorf("an unknown scheduler: %v", err)
		}
	})
}

// What the tracer does not ask: a process on the node that chose no source, an address that the node has anyway, a port that a load-balancer IP does not
// have, and session affinity.
func TestKernelEdges(t *testing.T) {
	needIPVS(t)
	l := lab.ForTest(t)
	if err := l.ServeEndpoints(); err != nil {
		t.Fatal(err)
	}
	plain := [3]proxy.Action{} // as without a way to recognise pods
	s := proxytest.NewState(proxy.IPv4,
		proxytest.NewService("ns/web/TCP", proxytest.At(proxy.ClusterIP, "10.96.0.1:80", plain), proxytest.At(proxy.LoadBalancerIP, "192.168.60.1:80", proxytest.External),
			proxytest.At(proxy.ExternalIP, "192.168.51.1:80", proxytest.External), proxytest.On("10.244.2.2:8080")),
		proxytest.NewService("ns/empty/TCP", proxytest.At(proxy.ClusterIP, "10.96.0.3:80", proxytest.RejectAll)),
		proxytest.NewService("ns/sticky/TCP", proxytest.Sticky(time.Hour), proxytest.At(proxy.ClusterIP, "10.96.0.2:80", proxytest.Internal),
			proxytest.On("10.244.1.2:8080 local", "10.244.1.3:8080 local", "10.244.2.2:8080", "10.244.2.3:8080")))
	s.Node.LocalPods = proxy.LocalPods{}
	inNode(t, l, func() { apply(t, newKernelBackend(t, Options{Family: proxy.IPv4}), s) })
	dial := func(from *lab.Host, to string) lab.Outcome {
		return from.Dial(proxy.TCP, netip.MustParseAddrPort(to), lab.DialOptions{Timeout: 2 * time.Second})
	}
	for to, want := range map[string]lab.Result{"10.96.0.1:80": lab.Connected, "192.168.60.1:80": lab.Connected, "192.168.51.1:80": lab.Connected,
		"192.168.60.1:8080": lab.Refused, "10.96.0.1:8080": lab.Refused, "10.96.0.3:80": lab.Refused} {
		for _, from := range []*lab.Host{l.Node(), l.Client()} {
			if got := dial(from, to); got.Result != want {
				t.Errorf("%s -> %s: %v, want %v", from.Name, to, got, want)
			}
		}
	}
	if got := dial(l.Client(), "192.168.51.1:8081"); got.Result != lab.Connected || got.Server != "n1" {
		t.Errorf("a port of the node's own at an external IP that is the node's: %v", got)
	}
	first := dial(l.Client(), "10.96.0.2:80")
	for range 8 {
		if got := dial(l.Client(), "10.96.0.2:80"); got.Server != first.Server {
			t.Errorf("affinity: %v after %v", got, first)
		}
	}
}
