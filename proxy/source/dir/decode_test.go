package dir

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// keysOf lists the objects of a content in their order.
func keysOf(c content) []string {
	var out []string
	for _, e := range c.entries {
		out = append(out, e.key.String())
	}
	return out
}

func textsOf(problems []Problem) []string {
	var out []string
	for _, p := range problems {
		out = append(out, p.Severity.String()+" "+p.String())
	}
	return out
}

const web = `apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.0.0.1
  ports:
  - port: 80
`

func TestDecode(t *testing.T) {
	tests := []struct {
		name, file, data string
		objects          []string
		problems         []string
	}{
		{name: "empty file", file: "a.yaml"},
		{name: "comments only", file: "a.yaml", data: "# nothing\n---\n# here\n...\n"},
		{name: "one document", file: "a.yaml", data: web, objects: []string{"Service shop/web"}},
		{name: "byte order mark and carriage returns", file: "a.yaml", data: "\ufeff---\r\n" + strings.ReplaceAll(web, "\n", "\r\n"),
			objects: []string{"Service shop/web"}},
		{name: "several documents of all kinds", file: "a.yml", data: web + `--- # the slice
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: []
---
{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a", "namespace": "no-matter"}}
---
apiVersion: networking.k8s.io/v1beta1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.0.0.0/24]}
`, objects: []string{"Service shop/web", "EndpointSlice default/web-1", "Node a", "ServiceCIDR kubernetes"}},
		{name: "document on the marker's line", file: "a.yaml",
			data:    "--- {apiVersion: v1, kind: Node, metadata: {name: a}}\n--- {apiVersion: v1, kind: Node, metadata: {name: b}}",
			objects: []string{"Node a", "Node b"}},
		{name: "list", file: "a.yaml", data: "apiVersion: v1\nkind: List\nitems:\n" +
			"- {apiVersion: v1, kind: Node, metadata: {name: a}}\n- {apiVersion: v1, kind: Node, metadata: {name: b}}\n",
			objects: []string{"Node a", "Node b"}},
		{name: "list of one kind, as the API server answers", file: "a.json",
			data:    `{"apiVersion":"v1","kind":"NodeList","metadata":{"resourceVersion":"1"},"items":[{"metadata":{"name":"a"}}]}`,
			objects: []string{"Node a"}},
		{name: "empty list", file: "a.yaml", data: "apiVersion: v1\nkind: List\nitems: []\n"},
		{name: "JSON documents behind each other", file: "a.json",
			data:    `{"apiVersion":"v1","kind":"Node","metadata":{"name":"a"}}` + "\n" + `{"apiVersion":"v1","kind":"Node","metadata":{"name":"b"}}`,
			objects: []string{"Node a", "Node b"}},
		{name: "other kinds, also of the same name", file: "a.yaml",
			data: "apiVersion: serving.knative.dev/v1\nkind: Service\nspec: text\n---\napiVersion: v1\nkind: ConfigMap\nitems: 3\n" +
				"---\napiVersion: x/v1\nkind: AllowList\naddressType: 4\n---\n" + web,
			objects: []string{"Service shop/web"},
			problems: []string{"warning a.yaml: objects of kinds that a proxy does not use are ignored: " +
				"serving.knative.dev/v1 Service (1), v1 ConfigMap (1), x/v1 AllowList (1)"}},
		{name: "misspelt field is loaded all the same", file: "a.yaml",
			data:     "# first\n\n" + strings.Replace(web, "- port: 80", "- name: x\n    prot: 80", 1),
			objects:  []string{"Service shop/web"},
			problems: []string{`warning a.yaml:10: document 1: Service shop/web: unknown field "spec.ports[0].prot" is ignored; see whether it is misspelt`}},
		{name: "wrong case is misspelt", file: "a.json",
			data:     `{"apiVersion":"v1","kind":"Node","metadata":{"name":"a"},` + "\n" + `"Spec":{}}`,
			objects:  []string{"Node a"},
			problems: []string{`warning a.json:2: document 1: Node a: unknown field "Spec" is ignored; see whether it is misspelt`}},
		{name: "key twice", file: "a.yaml", data: "---\n" + web + "  clusterIP: 10.0.0.2\n",
			objects:  []string{"Service shop/web"},
			problems: []string{`warning a.yaml:9: document 1: key "clusterIP" already set in map`}},
		{name: "key twice in JSON", file: "a.json",
			data:     "\n" + `{"apiVersion":"v1","kind":"Node","metadata":{"name":"a"},` + "\n\"spec\":{},\n\"spec\":{}}",
			objects:  []string{"Node a"},
			problems: []string{`warning a.json:4: document 1: Node a: duplicate field "spec"`}},
		{name: "wrong type", file: "a.yaml",
			data:     "---\n---\n" + strings.Replace(web, "80", "http", 1) + "---\n" + web,
			objects:  []string{"Service shop/web"},
			problems: []string{"error a.yaml:9: document 1: Service shop/web: spec.ports[0].port: want an integer (int32), have string"}},
		{name: "number too large", file: "a.yaml", data: strings.Replace(web, "80", "8000000000", 1),
			problems: []string{"error a.yaml:7: document 1: Service shop/web: spec.ports[0].port: want an integer (int32), have number 8000000000"}},
		{name: "list for an object, in a list", file: "a.yaml",
			data: "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Node, metadata: {name: a}}\n" +
				"- apiVersion: v1\n  kind: Service\n  metadata: {name: b}\n  spec:\n  - a\n",
			objects:  []string{"Node a"},
			problems: []string{"error a.yaml:8: document 1: Service default/b: items[1].spec: want an object, have array"}},
		{name: "no mapping", file: "a.yaml", data: "just words\n---\n[1]\n",
			problems: []string{"error a.yaml:1: document 1: want an object, have string", "error a.yaml:3: document 2: want an object, have array"}},
		{name: "value with its own decoder", file: "a.yaml",
			data:     "apiVersion: v1\nkind: Node\nmetadata: {name: a, creationTimestamp: noon}\n",
			problems: []string{`error a.yaml:1: document 1: Node a: parsing time "noon" as "2006-01-02T15:04:05Z07:00": cannot parse "noon" as "2006"`}},
		{name: "no YAML", file: "a.yaml", data: web + "---\na: b\nc: d: e\n",
			objects:  []string{"Service shop/web"},
			problems: []string{"error a.yaml:10: document 2: is not YAML: mapping values are not allowed in this context"}},
		{name: "aliases that would fill the memory", file: "a.yaml", data: web + "---\na: &a [x,x,x,x,x,x,x,x,x]\n" + bomb("abcdefghi"),
			objects:  []string{"Service shop/web"},
			problems: []string{"error a.yaml:9: document 2: is not YAML: document contains excessive aliasing"}},
		{name: "no JSON", file: "a.json", data: `{"apiVersion":"v1","kind":"Node","metadata":{"name":"a"}}` + "\n{\n\"a\" 3}",
			objects:  []string{"Node a"},
			problems: []string{"error a.json:3: document 2: is not JSON: invalid character '3' after object key"}},
		{name: "half a JSON", file: "a.json", data: "{\n",
			problems: []string{"error a.json:2: document 1: is not JSON: unexpected EOF"}},
		{name: "no kind", file: "a.yaml", data: "metadata: {name: a}\n",
			problems: []string{"error a.yaml:1: document 1: has no apiVersion or no kind; write it as kubectl get -o yaml does"}},
		{name: "element without kind", file: "a.yaml", data: "apiVersion: v1\nkind: List\nitems:\n- metadata: {name: a}\n",
			problems: []string{"error a.yaml:4: document 1: items[0] has no apiVersion or no kind; write it as kubectl get -o yaml does"}},
		{name: "list in a list", file: "a.yaml", data: "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: List\n  items: []\n",
			problems: []string{"error a.yaml:5: document 1: items[0] is a list inside a list; put its items into the outer one"}},
		{name: "items of a list are no list", file: "a.yaml", data: "apiVersion: v1\nkind: List\nitems: {}\n",
			problems: []string{"error a.yaml:3: document 1: items: want a list of objects"}},
		{name: "old version", file: "a.yaml", data: "kind: EndpointSlice\napiVersion: discovery.k8s.io/v1beta1\nmetadata: {name: a}\n",
			problems: []string{`error a.yaml:2: document 1: EndpointSlice default/a: apiVersion "discovery.k8s.io/v1beta1" is not read; write it as discovery.k8s.io/v1`}},
		{name: "all problems of an object at once", file: "a.yaml",
			data: "apiVersion: v1\nkind: Service\nmetadata:\n  namespace: a/b\n",
			problems: []string{
				"error a.yaml:3: document 1: Service a/b/: metadata.name is missing; give the object a name",
				`error a.yaml:4: document 1: Service a/b/: metadata.namespace "a/b" is not a valid name: ` +
					"a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an " +
					"alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
				"error a.yaml:1: document 1: Service a/b/: spec is missing; write the whole object, as kubectl get -o yaml prints it",
			}},
		{name: "slice without address type or Service", file: "a.yaml",
			data: "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a}\n---\n" +
				"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: b}\naddressType: IPv6\n",
			objects: []string{"EndpointSlice default/b"},
			problems: []string{
				"error a.yaml:1: document 1: EndpointSlice default/a: addressType is missing; write IPv4 or IPv6",
				"warning a.yaml:7: document 2: EndpointSlice default/b: the label kubernetes.io/service-name is missing, so it belongs to no Service; write the Service's name there",
			}},
		{name: "service never seen by an API server", file: "a.yaml", data: "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {}\n",
			objects:  []string{"Service default/a"},
			problems: []string{"warning a.yaml:4: document 1: Service default/a: spec.clusterIP is missing, so nothing is forwarded; write an address, for no API server assigns one here"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := decode(tt.file, []byte(tt.data))
			if d := cmp.Diff(tt.objects, keysOf(got)); d != "" {
				t.Errorf("objects (-want +got):\n%s", d)
			}
			if d := cmp.Diff(tt.problems, textsOf(got.problems)); d != "" {
				t.Errorf("problems (-want +got):\n%s", d)
			}
		})
	}
}

// bomb returns YAML in which each letter's list has nine aliases of the one before.
func bomb(letters string) string {
	var b strings.Builder
	for i := 1; i < len(letters); i++ {
		fmt.Fprintf(&b, "%c: &%c [%s*%c]\n", letters[i], letters[i], strings.Repeat(fmt.Sprintf("*%c,", letters[i-1]), 8), letters[i-1])
	}
	return b.String()
}

func TestDecodeCompletes(t *testing.T) {
	got := decode("a.yaml", []byte(`apiVersion: v1
kind: Service
metadata:
  name: web
  annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}", note: kept}
  managedFields: [{manager: kubectl}]
spec:
  type: NodePort
  clusterIP: 10.0.0.1
  sessionAffinity: ClientIP
  ports: [{port: 80, nodePort: 30080}]
status:
  loadBalancer: {ingress: [{ip: 192.0.2.1}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
`))
	want := []metav1.Object{
		&v1.Service{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
			ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", Annotations: map[string]string{"note": "kept"}},
			Spec: v1.ServiceSpec{
				Type: v1.ServiceTypeNodePort, ClusterIP: "10.0.0.1", ClusterIPs: []string{"10.0.0.1"},
				SessionAffinity:       v1.ServiceAffinityClientIP,
				SessionAffinityConfig: &v1.SessionAffinityConfig{ClientIP: &v1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](10800)}},
				Ports:                 []v1.ServicePort{{Protocol: v1.ProtocolTCP, Port: 80, NodePort: 30080}},
				InternalTrafficPolicy: ptr.To(v1.ServiceInternalTrafficPolicyCluster), ExternalTrafficPolicy: v1.ServiceExternalTrafficPolicyCluster,
			},
			Status: v1.ServiceStatus{LoadBalancer: v1.LoadBalancerStatus{Ingress: []v1.LoadBalancerIngress{{IP: "192.0.2.1"}}}},
		},
		&discovery.EndpointSlice{
			TypeMeta:    metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
			ObjectMeta:  metav1.ObjectMeta{Name: "web-1", Namespace: "shop", Labels: map[string]string{"kubernetes.io/service-name": "web"}},
			AddressType: discovery.AddressTypeIPv4,
			Ports:       []discovery.EndpointPort{{Name: new(""), Protocol: ptr.To(v1.ProtocolTCP), Port: ptr.To[int32](8080)}},
		},
	}
	var objects []metav1.Object
	for _, e := range got.entries {
		objects = append(objects, e.object)
	}
	if d := cmp.Diff(want, objects); d != "" {
		t.Errorf("objects (-want +got):\n%s", d)
	}
	if len(got.problems) > 0 {
		t.Errorf("problems: %v", got.problems)
	}
}

func TestProblemsAreBounded(t *testing.T) {
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, "apiVersion: v1\nkind: Node\nmetadata: {name: n%d}\nnew: 1\n---\n", i)
	}
	b.WriteString("apiVersion: v1\nkind: Node\n")
	c := decode("a.yaml", []byte(b.String()))
	_, got := merge(map[string]content{"a.yaml": c})
	if len(got) != maxProblems {
		t.Fatalf("got %d problems, want %d", len(got), maxProblems)
	}
	if got[0].Severity != Error || got[0].Line != 5001 {
		t.Errorf("first is %v; want the error of line 5001", got[0])
	}
	if want := "982 more problems in this file"; !strings.Contains(got[len(got)-1].Reason, want) {
		t.Errorf("last is %v; want it to say %q", got[len(got)-1], want)
	}
}

func TestPathAt(t *testing.T) {
	data := []byte(`{"a":{"b":[1,{"c":"x"},[true]],"d":null},"e":2}`)
	for want, at := range map[string]string{"a.b[0]": "1,", "a.b[1].c": `"x"}`, "a.b[2][0]": "true", "a.d": "null", "e": "2}", "a.b[1]": `{"c"`, "a.b": "[1"} {
		end := strings.Index(string(data), at) + len(at)
		if strings.ContainsAny(at[len(at)-1:], ",}") {
			end--
		}
		if strings.HasPrefix(at, "{") || strings.HasPrefix(at, "[") {
			end = strings.Index(string(data), at) + 1
		}
		if got := pathAt(data, int64(end)); got != want {
			t.Errorf("pathAt the end of %q: got %q, want %q", at, got, want)
		}
	}
}

// FuzzDecode checks that no file makes decode panic, that what is loaded is complete and named, and that each problem can be
// found in the file.
func FuzzDecode(f *testing.F) {
	f.Add(true, []byte(web))
	f.Add(true, []byte("--- {a: b}\n...\n%YAML 1.1\n---\n&a [*a]\n"))
	f.Add(true, []byte("a: &a [x]\nb: &b [*a,*a]\nc: [*b,*b]\n? {x: y}\n: z\n"))
	f.Add(true, []byte("apiVersion: v1\nkind: ServiceList\nitems: [{metadata: {name: a}, spec: {ports: [3]}}]\n"))
	f.Add(false, []byte(`{"apiVersion":"v1","kind":"Node","metadata":{"name":"a","labels":{"a":1}}}{"kind":3}`))
	f.Fuzz(func(t *testing.T, isYAML bool, data []byte) {
		name := "a.json"
		if isYAML {
			name = "a.yaml"
		}
		c := decode(name, data)
		lines := strings.Count(string(data), "\n") + 1
		if isYAML && strings.ContainsAny(string(data), "\r\u0085\u2028\u2029") {
			lines += len(data) // YAML 1.1 has more line breaks, which do not count for us but for its parser
		}
		for _, e := range c.entries {
			if e.key.name == "" || e.key.name != e.object.GetName() || e.key.namespace != e.object.GetNamespace() && e.key.kind.namespaced() {
				t.Errorf("key %v of object %s/%s", e.key, e.object.GetNamespace(), e.object.GetName())
			}
			if _, err := json.Marshal(e.object); err != nil {
				t.Errorf("%v: %v", e.key, err)
			}
			if e.line < 1 || e.line > lines {
				t.Errorf("%v: line %d of %d", e.key, e.line, lines)
			}
		}
		for _, p := range c.problems {
			if p.Line < 0 || p.Line > lines || p.Reason == "" || p.File != name {
				t.Errorf("problem %+v in a file of %d lines", p, lines)
			}
		}
	})
}

// BenchmarkDecode reads 10,000 Services in files of 5.
func BenchmarkDecode(b *testing.B) {
	folder := b.TempDir()
	for i := range 2000 {
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%d.yaml", i)), []byte(services(i, 5)), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if o, _, err := Load(folder, ""); err != nil || len(o.Services) != 10000 {
			b.Fatal(len(o.Services), err)
		}
	}
}

// services returns a manifest of n Services, named after the file number.
func services(file, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Service\nmetadata: {name: s%d-%d}\nspec:\n  clusterIP: 10.0.%d.%d\n  ports:\n  - port: 80\n",
			file, i, file/250, file%250)
	}
	return b.String()
}
