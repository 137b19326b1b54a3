package iptables

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"turnout/proxy"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/lab"
)

// in returns the text for the family.
func in(f proxy.Family, v4, v6 string) string {
	if f == proxy.IPv6 {
		return v6
	}
	return v4
}

// web is a Service on a ClusterIP and a NodePort; pods are those of node n1, counted from 1.
func web(f proxy.Family, affinity time.Duration, pods ...string) *proxy.Service {
	var on []string
	for _, p := range pods {
		on = append(on, in(f, "10.244.1."+p+":8080 local", "[fd00:10:244:1::"+p+"]:8080 local"))
	}
	return proxytest.NewService("ns/web/TCP", proxytest.Sticky(affinity), proxytest.On(on...),
		proxytest.At(proxy.ClusterIP, in(f, "10.96.0.1:80", "[fd00:10:96::1]:80"), proxytest.Internal), proxytest.At(proxy.NodePort, ":30080", proxytest.External))
}

func webIP(f proxy.Family) netip.AddrPort {
	return netip.MustParseAddrPort(in(f, "10.96.0.1:80", "[fd00:10:96::1]:80"))
}

// No connection fails while endpoints come and go, Services come and go, everything is rebuilt, and another process takes over.
func TestHitless(t *testing.T) {
	t.Parallel()
	eachVariant(t, func(t *testing.T, o Options) {
		t.Parallel()
		n := newNode(t, o)
		if err := n.ServeEndpoints(); err != nil {
			t.Fatal(err)
		}
		n.backend.kernel = inSteps{n.backend.kernel}
		n.apply(proxytest.NewState(o.Family, web(o.Family, 0, "2", "3")))
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		reports := make(chan lab.LoadReport, 2)
		for _, h := range []*lab.Host{n.Client(), n.Host("pod-3")} {
			go func() {
				reports <- h.Load(ctx, proxy.TCP, webIP(o.Family), lab.LoadOptions{Parallel: 2, Attempts: 1 << 30, Timeout: 900 * time.Millisecond})
			}()
		}
		other := proxytest.NewService("ns/other/TCP", proxytest.At(proxy.ClusterIP, in(o.Family, "10.96.0.2:80", "[fd00:10:96::2]:80"), proxytest.RejectAll))
		for step := range 45 {
			state := proxytest.NewState(o.Family, web(o.Family, 0, [][]string{{"2", "3"}, {"3", "4"}, {"4"}, {"2"}, {"2", "3", "4"}}[step%5]...))
			if step%2 == 1 {
				state.Services = state.Services.Set(other.Name, other)
			}
			if step%15 == 13 {
				n.backend.Forget()
			}
			if step%15 == 14 {
				n.do(func() (err error) {
					n.backend, err = New(t.Context(), o)
					n.backend.kernel = inSteps{n.backend.kernel}
					return err
				})
			}
			n.apply(state)
		}
		stop()
		for range 2 {
			// What was under way when the context ended does not count.
			r := <-reports
			if r.OK < 20 || slices.ContainsFunc(r.Errors, func(o lab.Outcome) bool { return !errors.Is(o.Err, context.Canceled) }) {
				t.Errorf("%v", r)
			}
			t.Logf("%v", r)
		}
	})
}

// inSteps has rebuilds made in as many steps as there are Services, as they are for thousands.
type inSteps struct{ kernel }

func (inSteps) chunk() int { return 1 }

// A client stays with its endpoint: for all frontends, when others come and go, over a rebuild and a restart; when the endpoint goes, it finds another.
func TestAffinity(t *testing.T) {
	t.Parallel()
	eachVariant(t, func(t *testing.T, o Options) {
		t.Parallel()
		n := newNode(t, o)
		if err := n.ServeEndpoints(); err != nil {
			t.Fatal(err)
		}
		nodePort := netip.MustParseAddrPort(in(o.Family, "192.168.50.1:30080", "[fd50::1]:30080"))
		server := func() string {
			t.Helper()
			seen := map[string]bool{}
			name := ""
			for i := range 12 {
				got := n.Client().Dial(proxy.TCP, []netip.AddrPort{webIP(o.Family), nodePort}[i%2], lab.DialOptions{})
				if got.Result != lab.Connected {
					t.Fatal(got)
				}
				name, seen[got.Server] = got.Server, true
			}
			if len(seen) != 1 {
				t.Errorf("one client reached %v", seen)
			}
			return name
		}
		numbers := []string{"2", "3", "4"} // of pod-1, pod-2, pod-3
		n.apply(proxytest.NewState(o.Family, web(o.Family, time.Minute, numbers...)))
		first := server()
		mine := numbers[strings.Index("123", strings.TrimPrefix(first, "pod-"))]
		others := slices.DeleteFunc(slices.Clone(numbers), func(s string) bool { return s == mine })
		for _, pods := range [][]string{{mine}, numbers, {others[0], mine}, numbers} {
			slices.Sort(pods)
			n.apply(proxytest.NewState(o.Family, web(o.Family, time.Minute, pods...)))
			if got := server(); got != first {
				t.Errorf("with pods %v: %s, was %s", pods, got, first)
			}
		}
		n.do(func() (err error) {
			n.backend, err = New(t.Context(), o)
			return err
		})
		n.apply(proxytest.NewState(o.Family, web(o.Family, time.Minute, numbers...)))
		if got := server(); got != first {
			t.Errorf("after a restart: %s, was %s", got, first)
		}
		n.apply(proxytest.NewState(o.Family, web(o.Family, time.Minute, others...)))
		if got := server(); got == first {
			t.Errorf("still at %s, which is gone", got)
		}
	})
}

// NodePorts are served on loopback addresses if the Backend is told so, and nobody else can use the way in.
func TestLocalhostNodePorts(t *testing.T) {
	t.Parallel()
	for _, v := range variants {
		for _, localhost := range []bool{false, true} {
			t.Run(string(v)+map[bool]string{false: " off", true: " on"}[localhost], func(t *testing.T) {
				t.Parallel()
				o := Options{Family: proxy.IPv4, Variant: v, LocalhostNodePorts: localhost}
				o.setDefaults()
				if _, err := findPrograms(t.Context(), &o, v); err != nil {
					t.Skipf("needs iptables: %v", err)
				}
				n := newNode(t, o)
				if err := n.ServeEndpoints(); err != nil {
					t.Fatal(err)
				}
				if localhost {
					n.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/all/route_localnet", []byte("1"), 0o644) })
				}
				n.apply(proxytest.NewState(proxy.IPv4, web(proxy.IPv4, 0, "2")))
				got := n.Node().Dial(proxy.TCP, netip.MustParseAddrPort("127.0.0.1:30080"), lab.DialOptions{})
				if want := map[bool]lab.Result{false: lab.Refused, true: lab.Connected}[localhost]; got.Result != want {
					t.Errorf("%v, want %v", got, want)
				}
				n.do(func() error {
					rules := strings.Join(saved(t, o), "\n")
					if has := strings.Contains(rules, "-A KUBE-NODEPORTS ! -s 127.0.0.0/8 -d 127.0.0.0/8"); has != localhost {
						t.Errorf("a rule for packets to loopback addresses is there: %t\n%s", has, rules)
					}
					return nil
				})
			})
		}
	}
}
