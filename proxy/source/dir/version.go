package dir

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// version says how objects of one kind are read.
type version struct {
	kind     kind
	group    string   // API group, empty for the core
	versions []string // of the group, those whose fields are the ones of the first
	new      func() metav1.Object
}

// versions are the kinds that a proxy needs. Kubernetes 1.31 and 1.32 print ServiceCIDR as v1beta1, with the same fields.
var versions = map[string]version{
	"Service":       {kindService, "", []string{"v1"}, func() metav1.Object { return &v1.Service{} }},
	"Node":          {kindNode, "", []string{"v1"}, func() metav1.Object { return &v1.Node{} }},
	"EndpointSlice": {kindEndpointSlice, discovery.GroupName, []string{"v1"}, func() metav1.Object { return &discovery.EndpointSlice{} }},
	"ServiceCIDR":   {kindServiceCIDR, networking.GroupName, []string{"v1", "v1beta1"}, func() metav1.Object { return &networking.ServiceCIDR{} }},
}

// groupOf reports whether apiVersion belongs to the kind's group. Others may have a kind of the same name: Knative has a Service.
func (v version) groupOf(apiVersion string) bool {
	group, _ := splitVersion(apiVersion)
	return group == v.group
}

func splitVersion(apiVersion string) (group, version string) {
	if group, version, ok := strings.Cut(apiVersion, "/"); ok {
		return group, version
	}
	return "", apiVersion
}

// key names the object. As for kubectl, an object without a namespace is in "default"; Node and ServiceCIDR have none.
func (v version) key(h header) key {
	k := key{kind: v.kind, name: h.Metadata.Name}
	if v.kind.namespaced() {
		k.namespace = h.Metadata.Namespace
		if k.namespace == "" {
			k.namespace = metav1.NamespaceDefault
		}
	}
	return k
}

// finding is something wrong with a field of an object.
type finding struct {
	field, reason string
}

// check returns what makes an object unusable. Names are checked, since no API server did and they go into kernel objects and
// metrics; what the fields of the spec say is for those who use them.
func (v version) check(h header) []finding {
	var out []finding
	if _, number := splitVersion(h.APIVersion); !slices.Contains(v.versions, number) {
		return []finding{{"apiVersion", fmt.Sprintf("apiVersion %q is not read; write it as %s", h.APIVersion,
			strings.TrimPrefix(v.group+"/"+v.versions[0], "/"))}}
	}
	k := v.key(h)
	if k.name == "" {
		out = append(out, finding{"metadata", "metadata.name is missing; give the object a name"})
	} else if why := validation.IsDNS1123Subdomain(k.name); len(why) > 0 {
		out = append(out, finding{"metadata.name", fmt.Sprintf("metadata.name %q is not a valid name: %s", k.name, why[0])})
	}
	if why := validation.IsDNS1123Label(k.namespace); k.namespace != "" && len(why) > 0 {
		out = append(out, finding{"metadata.namespace", fmt.Sprintf("metadata.namespace %q is not a valid name: %s", k.namespace, why[0])})
	}
	switch {
	case (v.kind == kindService || v.kind == kindServiceCIDR) && absent(h.Spec):
		out = append(out, finding{"spec", "spec is missing; write the whole object, as kubectl get -o yaml prints it"})
	case v.kind == kindEndpointSlice && absent(h.AddressType):
		out = append(out, finding{"", "addressType is missing; write IPv4 or IPv6"})
	}
	return out
}

// doubts returns what makes a usable object do nothing, which its author is unlikely to want.
func doubts(o metav1.Object) []finding {
	switch o := o.(type) {
	case *v1.Service:
		if o.Spec.ClusterIP == "" && o.Spec.Type != v1.ServiceTypeExternalName {
			return []finding{{"spec", "spec.clusterIP is missing, so nothing is forwarded; write an address, for no API server assigns one here"}}
		}
	case *discovery.EndpointSlice:
		if o.Labels[discovery.LabelServiceName] == "" {
			return []finding{{"metadata", "the label " + discovery.LabelServiceName + " is missing, so it belongs to no Service; write the Service's name there"}}
		}
	}
	return nil
}

// typeName says what a Go type is to those who write manifests.
func typeName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return typeName(t.Elem())
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Int32, reflect.Int64, reflect.Uint8:
		return "an integer (" + t.Kind().String() + ")"
	}
	return t.String()
}
