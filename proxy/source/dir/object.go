package dir

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/proxy"
	"turnout/proxy/source"
)

// Objects is what a folder holds for a proxy, each list sorted by namespace and name.
type Objects struct {
	Services       []*v1.Service
	EndpointSlices []*discovery.EndpointSlice
	Node           *v1.Node // nil if the folder does not have the own Node
	ServiceCIDRs   []*networking.ServiceCIDR
}

// Deliver gives all objects to sink and then calls its Synced.
func (o *Objects) Deliver(sink source.Sink) {
	if o.Node != nil {
		sink.SetNode(o.Node)
	}
	for _, c := range o.ServiceCIDRs {
		sink.SetServiceCIDR(c)
	}
	for _, s := range o.EndpointSlices {
		sink.SetEndpointSlice(s)
	}
	for _, s := range o.Services {
		sink.SetService(s)
	}
	sink.Synced()
}

// kind is one of the object kinds that a proxy needs, in the order in which they are delivered: what a Service refers to
// comes before it.
type kind uint8

const (
	kindNode kind = iota
	kindServiceCIDR
	kindEndpointSlice
	kindService
)

// String returns the kind as manifests spell it.
func (k kind) String() string {
	return [...]string{"Node", "ServiceCIDR", "EndpointSlice", "Service"}[k]
}

func (k kind) namespaced() bool { return k == kindEndpointSlice || k == kindService }

// key names an object; the namespace is empty for kinds that have none.
type key struct {
	kind            kind
	namespace, name string
}

// String returns such as "Service default/web" or "Node a".
func (k key) String() string {
	if k.namespace == "" {
		return k.kind.String() + " " + k.name
	}
	return k.kind.String() + " " + k.namespace + "/" + k.name
}

func (k key) compare(o key) int {
	return cmp.Or(cmp.Compare(k.kind, o.kind), strings.Compare(k.namespace, o.namespace), strings.Compare(k.name, o.name))
}

// entry is an object and where it was found.
type entry struct {
	key            key
	object         metav1.Object
	line, document int
	path           string // in the document, such as "items[3]"; empty if the object is the document
}

// place returns such as "web.yaml:12 items[3]".
func (e entry) place(file string) string {
	return strings.TrimSpace(fmt.Sprintf("%s:%d %s", file, e.line, e.path))
}

// wanted reports whether a proxy on the node would get the object from the API server: kube-proxy's watches leave out
// headless Services, those that another proxy serves, the EndpointSlices of headless ones, and other nodes.
func (e entry) wanted(node string) bool {
	switch o := e.object.(type) {
	case *v1.Node:
		return o.Name == node
	case *v1.Service:
		_, foreign := o.Labels[labelServiceProxyName]
		return !foreign && o.Spec.ClusterIP != v1.ClusterIPNone
	case *discovery.EndpointSlice:
		_, headless := o.Labels[v1.IsHeadlessService]
		return !headless
	}
	return true
}

// labelServiceProxyName names the proxy that serves a Service in place of the cluster's own (KEP-2447).
const labelServiceProxyName = "service.kubernetes.io/service-proxy-name"

// change says that an object is to be set, or deleted if object is nil.
type change struct {
	key    key
	object metav1.Object
}

func (c change) deliver(sink source.Sink) {
	switch o := c.object.(type) {
	case nil:
		c.deliverDelete(sink)
	case *v1.Service:
		sink.SetService(o)
	case *discovery.EndpointSlice:
		sink.SetEndpointSlice(o)
	case *v1.Node:
		sink.SetNode(o)
	case *networking.ServiceCIDR:
		sink.SetServiceCIDR(o)
	}
}

func (c change) deliverDelete(sink source.Sink) {
	switch c.key.kind {
	case kindService:
		sink.DeleteService(proxy.ServiceName{Namespace: c.key.namespace, Name: c.key.name})
	case kindEndpointSlice:
		sink.DeleteEndpointSlice(c.key.namespace, c.key.name)
	case kindNode:
		sink.DeleteNode()
	case kindServiceCIDR:
		sink.DeleteServiceCIDR(c.key.name)
	}
}

// objectsOf sorts merged objects into their lists.
func objectsOf(merged map[key]metav1.Object) *Objects {
	var out Objects
	for _, c := range diff(nil, merged) {
		switch o := c.object.(type) {
		case *v1.Service:
			out.Services = append(out.Services, o)
		case *discovery.EndpointSlice:
			out.EndpointSlices = append(out.EndpointSlices, o)
		case *v1.Node:
			out.Node = o
		case *networking.ServiceCIDR:
			out.ServiceCIDRs = append(out.ServiceCIDRs, o)
		}
	}
	return &out
}

func sortChanges(changes []change) {
	slices.SortFunc(changes, func(a, b change) int { return a.key.compare(b.key) })
}
