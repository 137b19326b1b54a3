package beside

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/proxy"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/lab"
)

const (
	markNamespace = "mark"
	// markPort is the port of the first generation's mark; each later one has the next.
	markPort = 10000
	// patience bounds every wait for something that takes a second or two on an idle machine.
	patience = 90 * time.Second
	// minSyncPeriod is how soon a proxy may sync again.
	minSyncPeriod = 50 * time.Millisecond
)

// markAddrs are the ClusterIPs of the mark.
var markAddrs = [...]netip.Addr{proxy.IPv4: netip.MustParseAddr("10.96.255.250"), proxy.IPv6: netip.MustParseAddr("fd00:10:96::fffa")}

// markPods are the endpoints of the mark, one after the other: each generation moves it.
var markPods = []string{"pod-1", "pod-2"}

// Settle waits until the kernels of sides follow all objects that were written before, in both families. That they do is certain: the
// mark is a Service whose port changes and whose endpoint moves. A connection to the new port reaches the new pod only when the proxy
// was told of both, and so of everything that was written before them.
func (c *Cluster) Settle(ctx context.Context, sides ...*Side) error {
	c.generation++
	// Not by Set: the mark is nobody's object.
	if err := each(ctx, c.mark(), c.write); err != nil {
		return err
	}
	return c.await(sides)
}

// await waits until sides follow the last mark.
func (c *Cluster) await(sides []*Side) error {
	end := time.Now().Add(patience)
	for _, s := range sides {
		for _, f := range proxy.Families {
			for {
				why := c.behind(s, f)
				if why == "" {
					break
				}
				if !s.Running() {
					return fmt.Errorf("%s has ended with exit code %d:\n%s", s.Name, s.ExitCode(), s.Tail())
				}
				if time.Now().After(end) {
					return fmt.Errorf("%s does not follow after %v: %s to the mark of generation %d: %s\n%s", s.Name, patience, f, c.generation, why, s.Tail())
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
	return nil
}

// behind says what shows that a side does not follow the last mark in a family, "" if it does.
func (c *Cluster) behind(s *Side, f proxy.Family) string {
	to := netip.AddrPortFrom(markAddrs[f], uint16(markPort+c.generation))
	got := s.Node().Dial(proxy.TCP, to, lab.DialOptions{})
	if got.Server == c.markPod() {
		return ""
	}
	return fmt.Sprintf("%v, want %s", got, c.markPod())
}

func (c *Cluster) markPod() string { return markPods[c.generation%len(markPods)] }

// mark is the Service and its EndpointSlices in the present generation.
func (c *Cluster) mark() []metav1.Object {
	s := &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: markNamespace, Name: "mark"}}
	s.Spec.IPFamilyPolicy = new(v1.IPFamilyPolicyRequireDualStack)
	s.Spec.Ports = []v1.ServicePort{{Name: "mark", Protocol: v1.ProtocolTCP, Port: int32(markPort + c.generation)}}
	out := []metav1.Object{s}
	for _, f := range proxy.Families {
		s.Spec.IPFamilies = append(s.Spec.IPFamilies, v1.IPFamily(f.String()))
		s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, markAddrs[f].String())
		e := &discovery.EndpointSlice{AddressType: discovery.AddressType(f.String())}
		e.Namespace, e.Name = s.Namespace, "mark-"+strings.ToLower(f.String())
		e.Labels = map[string]string{discovery.LabelServiceName: s.Name}
		e.Ports = []discovery.EndpointPort{{Name: new("mark"), Protocol: new(v1.ProtocolTCP), Port: new(int32(proxytest.EndpointPorts[0]))}}
		addr := c.hub.Host(c.markPod()).Addr(f).String()
		e.Endpoints = []discovery.Endpoint{{Addresses: []string{addr}, NodeName: new(c.hub.Cluster.Node)}}
		out = append(out, e)
	}
	s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	return out
}

// errNotStarted is told by methods that need a proxy.
var errNotStarted = errors.New("no proxy was started")
