package cluster

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/util/retry"

	"turnout/e2e/cluster/plane"
	"turnout/proxy"
	"turnout/proxy/proxytest/objects"
)

// scene is a namespace of a cluster, with the objects of one test.
type scene struct {
	*cluster
	t  *testing.T
	ns string
}

// number tells apart what tests make at the same time, addressed Services that have addresses of their own.
var number, addressed atomic.Int32

// scene makes a namespace.
func (c *cluster) scene(t *testing.T) *scene {
	t.Helper()
	s := &scene{cluster: c, t: t, ns: fmt.Sprintf("test-%d", number.Add(1))}
	_, err := c.plane.Admin.CoreV1().Namespaces().Create(c.ctx, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.ns}}, metav1.CreateOptions{})
	must(t, err)
	before := len(c.proxy.Log())
	t.Cleanup(func() {
		if log := c.proxy.Log(); t.Failed() && len(log) >= before {
			t.Logf("log of the proxy since the test began:\n%s", log[before:])
		}
		if err := c.plane.Admin.CoreV1().Namespaces().Delete(c.ctx, s.ns, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return s
}

// The ports of every Service that a scene makes.
var ports = map[proxy.Protocol]int32{proxy.TCP: 80, proxy.UDP: 53, proxy.SCTP: 90}

// What changes a Service in the making.
type part = objects.Part

var internalLocal, externalLocal, sourceRanges, sticky = objects.InternalLocal, objects.ExternalLocal, objects.SourceRanges, objects.ClientIP

// full makes a Service of type LoadBalancer, dual-stack and with an address of every kind and ports of every protocol. Its endpoints are
// the pods with the label app=name.
func full(name string, parts ...part) *v1.Service {
	// There are addresses for 100 Services, and those of two at the same time must not be the same: only who needs them draws a number.
	i := addressed.Add(1) % 100
	return internal(name, append([]part{func(s *v1.Service) {
		s.Spec.Type = v1.ServiceTypeLoadBalancer
		s.Spec.ExternalIPs = []string{fmt.Sprintf("192.168.60.%d", 150+i), fmt.Sprintf("fd60::%x", 512+i)}
		s.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: fmt.Sprintf("192.168.60.%d", 10+i)}, {IP: fmt.Sprintf("fd60::%x", 16+i)}}
	}}, parts...)...)
}

// internal makes a dual-stack Service of type ClusterIP with ports of every protocol.
func internal(name string, parts ...part) *v1.Service {
	s := &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}}
	s.Spec.Type, s.Spec.Selector = v1.ServiceTypeClusterIP, map[string]string{"app": name}
	s.Spec.IPFamilyPolicy = new(v1.IPFamilyPolicyRequireDualStack)
	for n, p := range []proxy.Protocol{proxy.TCP, proxy.UDP, proxy.SCTP} {
		s.Spec.Ports = append(s.Spec.Ports, v1.ServicePort{Name: fmt.Sprintf("port-%d", n), Protocol: v1.Protocol(p.String()), Port: ports[p]})
		s.Spec.Ports[n].TargetPort.IntVal = endpointPort
	}
	for _, part := range parts {
		part(s)
	}
	return s
}

// plain makes a dual-stack Service of type ClusterIP with one TCP port.
func plain(name string, parts ...part) *v1.Service {
	return internal(name, append([]part{func(s *v1.Service) { s.Spec.Ports = s.Spec.Ports[:1] }}, parts...)...)
}

// create makes a Service, with its status, and a pod on each of some hosts. A name with a "!" before it is a pod that is not ready.
// It returns what the API server made of the Service.
func (s *scene) create(service *v1.Service, hosts ...string) *v1.Service {
	s.t.Helper()
	services := s.plane.Admin.CoreV1().Services(s.ns)
	made, err := services.Create(s.ctx, service, metav1.CreateOptions{})
	must(s.t, err)
	if len(service.Status.LoadBalancer.Ingress) > 0 {
		made.Status = service.Status
		made, err = services.UpdateStatus(s.ctx, made, metav1.UpdateOptions{})
		must(s.t, err)
	}
	for _, host := range hosts {
		s.run(service.Name, host)
	}
	return made
}

// run starts a pod of a Service on a host, under the name pod returns.
func (s *scene) run(service, host string) {
	s.t.Helper()
	host, notReady := strings.CutPrefix(host, "!")
	must(s.t, s.plane.RunPod(s.ctx, plane.Pod{
		Namespace: s.ns, Name: pod(service, host), Host: host, Labels: map[string]string{"app": service}, NotReady: notReady,
	}))
}

func pod(service, host string) string { return service + "-" + host }

// edit changes a Service and returns what the API server made of it.
func (s *scene) edit(name string, parts ...part) *v1.Service {
	s.t.Helper()
	services := s.plane.Admin.CoreV1().Services(s.ns)
	var made *v1.Service
	must(s.t, retry.RetryOnConflict(retry.DefaultRetry, func() error {
		service, err := services.Get(s.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, part := range parts {
			part(service)
		}
		made, err = services.Update(s.ctx, service, metav1.UpdateOptions{})
		return err
	}))
	return made
}

// remove deletes a Service; its pods stay.
func (s *scene) remove(name string) {
	s.t.Helper()
	must(s.t, s.plane.Admin.CoreV1().Services(s.ns).Delete(s.ctx, name, metav1.DeleteOptions{}))
}

// address is where a Service is reached: at its address of a kind and family, or at the node's for NodePorts.
func (s *scene) address(service *v1.Service, k proxy.Kind, f proxy.Family, p proxy.Protocol) netip.AddrPort {
	s.t.Helper()
	to := objects.Address(service, k, f, p, s.Node().Addr(f))
	if !to.IsValid() {
		s.t.Fatalf("%s has no %s %s", service.Name, f, k)
	}
	return to
}

// clusterIP is the address of a Service's TCP port in a family.
func (s *scene) clusterIP(service *v1.Service, f proxy.Family) netip.AddrPort {
	return s.address(service, proxy.ClusterIP, f, proxy.TCP)
}

// follow waits until the kernel follows everything that was done through the API before: first until the controllers have written the
// EndpointSlices of all Services of the scene, then until the proxy programmed a mark that is younger than all of that.
func (s *scene) follow() {
	s.t.Helper()
	list, err := s.plane.Admin.CoreV1().Services(s.ns).List(s.ctx, metav1.ListOptions{})
	must(s.t, err)
	for _, service := range list.Items {
		if len(service.Spec.Selector) > 0 && service.Spec.Type != v1.ServiceTypeExternalName {
			eventually(s.t, "the controllers wrote the slices of "+service.Name, func() string { return s.slicesLack(&service) })
		}
	}
	s.followMark()
}

// followMark is the second half of follow, for tests that look at the slices themselves.
func (s *scene) followMark() {
	s.t.Helper()
	m := s.mark()
	eventually(s.t, "the kernel follows the API server", func() string { return s.behind(m) })
	must(s.t, s.plane.Admin.CoreV1().Services(s.ns).Delete(s.ctx, m.name, metav1.DeleteOptions{}))
	for _, e := range m.slices {
		must(s.t, s.plane.Admin.DiscoveryV1().EndpointSlices(s.ns).Delete(s.ctx, e.Name, metav1.DeleteOptions{}))
	}
}

// slicesLack says how the slices of a Service differ from its pods, "" if they do not.
func (s *scene) slicesLack(service *v1.Service) string {
	selector := labels.SelectorFromSet(service.Spec.Selector).String()
	pods, err := s.plane.Admin.CoreV1().Pods(s.ns).List(s.ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return err.Error()
	}
	list, err := s.plane.Admin.DiscoveryV1().EndpointSlices(s.ns).List(s.ctx, metav1.ListOptions{LabelSelector: discovery.LabelServiceName + "=" + service.Name})
	if err != nil {
		return err.Error()
	}
	want, got := map[string]string{}, map[string]string{}
	for _, p := range pods.Items {
		ready := len(p.Status.Conditions) > 0 && p.Status.Conditions[0].Status == v1.ConditionTrue
		for _, ip := range p.Status.PodIPs {
			if slices.Contains(service.Spec.IPFamilies, v1.IPFamily(proxy.FamilyOf(netip.MustParseAddr(ip.IP)).String())) {
				gone := p.DeletionTimestamp != nil
				want[ip.IP] = fmt.Sprint("ready ", (ready && !gone) || service.Spec.PublishNotReadyAddresses, ", terminating ", gone)
			}
		}
	}
	for _, slice := range list.Items {
		for _, e := range slice.Endpoints {
			got[e.Addresses[0]] = fmt.Sprint("ready ", *e.Conditions.Ready, ", terminating ", *e.Conditions.Terminating)
		}
		if len(slice.Endpoints) > 0 && len(slice.Ports) != len(service.Spec.Ports) {
			return fmt.Sprintf("slice %s has %d ports", slice.Name, len(slice.Ports))
		}
	}
	if maps.Equal(want, got) {
		return ""
	}
	return "-want +got:\n" + cmp.Diff(want, got)
}

// mark is a Service, and its endpoints, by which is seen what the proxy has received.
type mark struct {
	name   string
	slices []*discovery.EndpointSlice
}

func (s *scene) mark() mark {
	s.t.Helper()
	n := number.Add(1)
	m := mark{name: fmt.Sprintf("mark-%d", n)}
	service := &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: m.name}}
	service.Spec = v1.ServiceSpec{Ports: []v1.ServicePort{{Port: 1}}, IPFamilyPolicy: new(v1.IPFamilyPolicyRequireDualStack)}
	_, err := s.plane.Admin.CoreV1().Services(s.ns).Create(s.ctx, service, metav1.CreateOptions{})
	must(s.t, err)
	for f, address := range map[proxy.Family]string{proxy.IPv4: fmt.Sprintf("192.0.2.%d", n%250+1), proxy.IPv6: fmt.Sprintf("2001:db8::%x", n)} {
		e := slice(service.Name, f, 1, address)
		_, err := s.plane.Admin.DiscoveryV1().EndpointSlices(s.ns).Create(s.ctx, e, metav1.CreateOptions{})
		must(s.t, err)
		m.slices = append(m.slices, e)
	}
	return m
}

// slice is an EndpointSlice made by hand, with one unnamed TCP port.
func slice(service string, f proxy.Family, port int32, addresses ...string) *discovery.EndpointSlice {
	e := &discovery.EndpointSlice{AddressType: discovery.AddressType(f.String())}
	e.Name = service + "-" + strings.ToLower(f.String())
	e.Labels = map[string]string{discovery.LabelServiceName: service, discovery.LabelManagedBy: "e2e"}
	e.Ports = []discovery.EndpointPort{{Name: new(""), Protocol: new(v1.ProtocolTCP), Port: &port}}
	for _, a := range addresses {
		e.Endpoints = append(e.Endpoints, discovery.Endpoint{Addresses: []string{a}})
	}
	return e
}

// behind says what shows that the kernel does not follow a mark yet. That it does is certain: the States have it, and a sync that was
// asked for before they were published, or later, has ended.
func (s *scene) behind(m mark) string {
	_, state, err := s.get(metricsServer, "/debug/state")
	if err != nil {
		return err.Error()
	}
	if n := strings.Count(state, "  "+s.ns+"/"+m.name+"/TCP\n"); n != 2 {
		return fmt.Sprintf("%d of 2 families have the mark %s", n, m.name)
	}
	for _, e := range m.slices {
		address := netip.MustParseAddr(e.Endpoints[0].Addresses[0])
		if !strings.Contains(state, "serving "+netip.AddrPortFrom(address, 1).String()+"\n") {
			return fmt.Sprintf("no endpoint %s", address)
		}
	}
	_, metrics, err := s.get(metricsServer, "/metrics")
	if err != nil {
		return err.Error()
	}
	for _, family := range []string{"IPv4", "IPv6"} {
		queued, synced := sample(metrics, "last_queued_timestamp", family), sample(metrics, "last_timestamp", family)
		if synced == 0 || synced < queued {
			return fmt.Sprintf("%s was last synced at %f, last queued at %f", family, synced, queued)
		}
	}
	return ""
}

var syncTimes = regexp.MustCompile(`(?m)^kubeproxy_sync_proxy_rules_(\w+)_seconds\{ip_family="(\w+)"\} (\S+)$`)

// sample finds one of the times of syncs, 0 if there is none.
func sample(metrics, name, family string) float64 {
	for _, m := range syncTimes.FindAllStringSubmatch(metrics, -1) {
		if m[1] == name && m[2] == family {
			value, err := strconv.ParseFloat(m[3], 64)
			if err != nil {
				return 0
			}
			return value
		}
	}
	return 0
}

// within bounds what must take less than a time.
func within(t *testing.T, most time.Duration, what string, do func()) {
	t.Helper()
	start := time.Now()
	do()
	took := time.Since(start)
	t.Logf("%s: %v", what, took.Round(time.Millisecond))
	if took > most {
		t.Errorf("%s took %v, want at most %v", what, took.Round(time.Millisecond), most)
	}
}
