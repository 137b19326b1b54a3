package desired

import (
	"testing"

	v1 "k8s.io/api/core/v1"

	"turnout/proxy"
)

// policyCase has the objects of Service default/s and what the IPv4 State shows of it.
type policyCase struct {
	name    string
	facts   *Facts // testFacts if nil
	objects []any
	want    []string
}

func testPolicies(t *testing.T, cases []policyCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f := c.facts
			if f == nil {
				f = testFacts()
			}
			r := Build(nil, newCluster(c.objects...).input(f))
			diffLines(t, c.want, show(r.States[proxy.IPv4]))
		})
	}
}

func masqueradeAll(f *Facts) { f.MasqueradeAll = true }

func TestClusterIP(t *testing.T) {
	here, there := "10.1.0.5 local", "10.1.1.5"
	testPolicies(t, []policyCase{
		{
			name:    "with a way to recognise pods, connections that are not from local pods are masqueraded",
			objects: []any{service("s", "10.0.0.1"), slice("s", here, there)},
			want: []string{
				"s/TCP ClusterIP 10.0.0.1:80/TCP pod=cluster node=cluster+masquerade elsewhere=cluster+masquerade",
				"s/TCP pool cluster 10.1.0.5* 10.1.1.5",
			},
		}, {
			name:    "with no way to recognise pods, nothing is masqueraded",
			facts:   blind(),
			objects: []any{service("s", "10.0.0.1"), slice("s", there)},
			want: []string{
				"s/TCP ClusterIP 10.0.0.1:80/TCP pod=cluster node=cluster elsewhere=cluster",
				"s/TCP pool cluster 10.1.1.5",
			},
		}, {
			name:    "masqueradeAll masquerades every connection",
			facts:   with(testFacts(), masqueradeAll),
			objects: []any{service("s", "10.0.0.1"), slice("s", there)},
			want: []string{
				"s/TCP ClusterIP 10.0.0.1:80/TCP pod=cluster+masquerade node=cluster+masquerade elsewhere=cluster+masquerade",
				"s/TCP pool cluster 10.1.1.5",
			},
		}, {
			name:    "masqueradeAll needs no way to recognise pods",
			facts:   with(blind(), masqueradeAll),
			objects: []any{service("s", "10.0.0.1"), slice("s", there)},
			want: []string{
				"s/TCP ClusterIP 10.0.0.1:80/TCP pod=cluster+masquerade node=cluster+masquerade elsewhere=cluster+masquerade",
				"s/TCP pool cluster 10.1.1.5",
			},
		}, {
			name:    "policy Local with local endpoints forwards to the Local set",
			objects: []any{service("s", "10.0.0.1", internalLocal), slice("s", here, there)},
			want: []string{
				"s/TCP ClusterIP 10.0.0.1:80/TCP pod=local node=local+masquerade elsewhere=local+masquerade",
				"s/TCP pool local 10.1.0.5*",
			},
		}, {
			name:    "policy Local with endpoints only elsewhere drops",
			objects: []any{service("s", "10.0.0.1", internalLocal), slice("s", there)},
			want: []string{
				"s/TCP ClusterIP 10.0.0.1:80/TCP pod=drop node=drop elsewhere=drop",
				"s/TCP none local: internal=true external=false",
			},
		}, {
			name:    "policy Local with no endpoints anywhere rejects",
			objects: []any{service("s", "10.0.0.1", internalLocal)},
			want:    []string{"s/TCP ClusterIP 10.0.0.1:80/TCP pod=reject node=reject elsewhere=reject"},
		}, {
			name:    "no endpoints anywhere rejects, even with masqueradeAll",
			facts:   with(testFacts(), masqueradeAll),
			objects: []any{service("s", "10.0.0.1"), slice("s", "10.1.1.5 unready unserving")},
			want:    []string{"s/TCP ClusterIP 10.0.0.1:80/TCP pod=reject node=reject elsewhere=reject"},
		}, {
			name:    "internal policy Local leaves external traffic to the Cluster set",
			objects: []any{service("s", "10.0.0.1", internalLocal, nodePort(30080)), slice("s", there)},
			want: []string{
				"s/TCP ClusterIP 10.0.0.1:80/TCP pod=drop node=drop elsewhere=drop",
				"s/TCP NodePort nodeport:30080/TCP pod=cluster+masquerade node=cluster+masquerade elsewhere=cluster+masquerade",
				"s/TCP pool cluster 10.1.1.5",
				"s/TCP none local: internal=true external=false",
			},
		}, {
			name:    "protocol and port name of slice and Service must be equal",
			objects: []any{service("s", "10.0.0.1", func(s *v1.Service) { s.Spec.Ports[0].Protocol = v1.ProtocolUDP }), slice("s", there)},
			want:    []string{"s/UDP ClusterIP 10.0.0.1:80/UDP pod=reject node=reject elsewhere=reject"},
		}, {
			name:    "two ports may share a number with different protocols",
			objects: []any{service("s", "10.0.0.1", twoProtocols), slice("s", there)},
			want: []string{
				"s/TCP ClusterIP 10.0.0.1:80/TCP pod=cluster node=cluster+masquerade elsewhere=cluster+masquerade",
				"s/TCP pool cluster 10.1.1.5",
				"s:u/UDP ClusterIP 10.0.0.1:80/UDP pod=reject node=reject elsewhere=reject",
			},
		}, {
			name:    "a Service that has no address of the family is absent in that family",
			objects: []any{service("s", "fd00:1::1"), slice("s", there)},
		}, {
			name:    "slices without a Service are nothing to serve",
			objects: []any{slice("s", there)},
		},
	})
}

func twoProtocols(s *v1.Service) {
	s.Spec.Ports = append(s.Spec.Ports, v1.ServicePort{Name: "u", Port: 80, Protocol: v1.ProtocolUDP})
}

func TestExternal(t *testing.T) {
	here, there := "10.1.0.5 local", "10.1.1.5"
	internal := "s/TCP ClusterIP 10.0.0.1:80/TCP pod=cluster node=cluster+masquerade elsewhere=cluster+masquerade"
	testPolicies(t, []policyCase{
		{
			name:    "Cluster policy masquerades whatever the source: node port",
			objects: []any{service("s", "10.0.0.1", nodePort(30080)), slice("s", there)},
			want: []string{internal, "s/TCP pool cluster 10.1.1.5",
				"s/TCP NodePort nodeport:30080/TCP pod=cluster+masquerade node=cluster+masquerade elsewhere=cluster+masquerade"},
		}, {
			name:    "Cluster policy masquerades whatever the source: external IP of a Service of any type",
			objects: []any{service("s", "10.0.0.1", externalIPs("192.0.2.1")), slice("s", there)},
			want: []string{internal, "s/TCP pool cluster 10.1.1.5",
				"s/TCP ExternalIP 192.0.2.1:80/TCP pod=cluster+masquerade node=cluster+masquerade elsewhere=cluster+masquerade"},
		}, {
			name:    "Cluster policy masquerades whatever the source: load-balancer IP",
			objects: []any{service("s", "10.0.0.1", loadBalancer("192.0.2.1")), slice("s", there)},
			want: []string{internal, "s/TCP pool cluster 10.1.1.5",
				"s/TCP LoadBalancerIP 192.0.2.1:80/TCP pod=cluster+masquerade node=cluster+masquerade elsewhere=cluster+masquerade"},
		}, {
			name:    "Local policy: outside to the Local set as it comes, pods to the Cluster set as they come, the node masqueraded",
			objects: []any{service("s", "10.0.0.1", nodePort(30080), externalLocal), slice("s", here, there)},
			want: []string{internal, "s/TCP pool cluster 10.1.0.5* 10.1.1.5", "s/TCP pool local 10.1.0.5*",
				"s/TCP NodePort nodeport:30080/TCP pod=cluster node=cluster+masquerade elsewhere=local"},
		}, {
			name:    "Local policy, endpoints only elsewhere: pods and node still reach the Cluster set, all others are dropped",
			objects: []any{service("s", "10.0.0.1", nodePort(30080), externalLocal), slice("s", there)},
			want: []string{internal, "s/TCP pool cluster 10.1.1.5",
				"s/TCP NodePort nodeport:30080/TCP pod=cluster node=cluster+masquerade elsewhere=drop",
				"s/TCP none local: internal=false external=true"},
		}, {
			name:    "Local policy, no way to recognise pods: they are like everybody elsewhere",
			facts:   blind(),
			objects: []any{service("s", "10.0.0.1", nodePort(30080), externalLocal), slice("s", here, there)},
			want: []string{"s/TCP ClusterIP 10.0.0.1:80/TCP pod=cluster node=cluster elsewhere=cluster",
				"s/TCP pool cluster 10.1.0.5* 10.1.1.5", "s/TCP pool local 10.1.0.5*",
				"s/TCP NodePort nodeport:30080/TCP pod=local node=cluster+masquerade elsewhere=local"},
		}, {
			name:    "Local policy is not changed by masqueradeAll",
			facts:   with(testFacts(), masqueradeAll),
			objects: []any{service("s", "10.0.0.1", nodePort(30080), externalLocal), slice("s", here)},
			want: []string{"s/TCP ClusterIP 10.0.0.1:80/TCP pod=cluster+masquerade node=cluster+masquerade elsewhere=cluster+masquerade",
				"s/TCP pool cluster 10.1.0.5*", "s/TCP pool local 10.1.0.5*",
				"s/TCP NodePort nodeport:30080/TCP pod=cluster node=cluster+masquerade elsewhere=local"},
		}, {
			name:    "no endpoints anywhere rejects, whatever the policy",
			objects: []any{service("s", "10.0.0.1", nodePort(30080), externalLocal)},
			want: []string{"s/TCP ClusterIP 10.0.0.1:80/TCP pod=reject node=reject elsewhere=reject",
				"s/TCP NodePort nodeport:30080/TCP pod=reject node=reject elsewhere=reject"},
		}, {
			name:    "both policies Local: the Cluster set is still needed for pods and the node",
			objects: []any{service("s", "10.0.0.1", internalLocal, nodePort(30080), externalLocal), slice("s", here, there)},
			want: []string{"s/TCP ClusterIP 10.0.0.1:80/TCP pod=local node=local+masquerade elsewhere=local+masquerade",
				"s/TCP pool cluster 10.1.0.5* 10.1.1.5", "s/TCP pool local 10.1.0.5*",
				"s/TCP NodePort nodeport:30080/TCP pod=cluster node=cluster+masquerade elsewhere=local"},
		}, {
			name:    "external policy Local is honoured for type ClusterIP with external IPs",
			objects: []any{service("s", "10.0.0.1", externalIPs("192.0.2.1"), externalLocal), slice("s", here)},
			want: []string{internal, "s/TCP pool cluster 10.1.0.5*", "s/TCP pool local 10.1.0.5*",
				"s/TCP ExternalIP 192.0.2.1:80/TCP pod=cluster node=cluster+masquerade elsewhere=local"},
		}, {
			name:    "external policy Local means nothing for type ClusterIP without external IPs",
			objects: []any{service("s", "10.0.0.1", externalLocal), slice("s", there)},
			want:    []string{internal, "s/TCP pool cluster 10.1.1.5"},
		}, {
			name:    "gate AllowServiceExternalIPs off: no rules for external IPs",
			facts:   with(testFacts(), func(f *Facts) { f.ExternalIPs = false }),
			objects: []any{service("s", "10.0.0.1", externalIPs("192.0.2.1")), slice("s", there)},
			want:    []string{internal, "s/TCP pool cluster 10.1.1.5"},
		}, {
			name:    "external and load-balancer addresses of the other family are not served",
			objects: []any{service("s", "10.0.0.1", externalIPs("2001:db8::1"), loadBalancer("2001:db8::2")), slice("s", there)},
			want:    []string{internal, "s/TCP pool cluster 10.1.1.5"},
		},
	})
}

func TestDualStack(t *testing.T) {
	c := newCluster(service("s", "10.0.0.1", dual("fd00:1::1"), nodePort(30080), externalIPs("2001:db8::1", "192.0.2.1")),
		slice("s", "10.1.1.5"), slice("s", "fd02::5"))
	r := Build(nil, c.input(testFacts()))
	ext := " pod=cluster+masquerade node=cluster+masquerade elsewhere=cluster+masquerade"
	diffLines(t, []string{
		"s/TCP ClusterIP 10.0.0.1:80/TCP pod=cluster node=cluster+masquerade elsewhere=cluster+masquerade",
		"s/TCP NodePort nodeport:30080/TCP" + ext, "s/TCP ExternalIP 192.0.2.1:80/TCP" + ext, "s/TCP pool cluster 10.1.1.5",
	}, show(r.States[proxy.IPv4]))
	diffLines(t, []string{
		"s/TCP ClusterIP [fd00:1::1]:80/TCP pod=cluster node=cluster+masquerade elsewhere=cluster+masquerade",
		"s/TCP NodePort nodeport:30080/TCP" + ext, "s/TCP ExternalIP [2001:db8::1]:80/TCP" + ext, "s/TCP pool cluster fd02::5",
	}, show(r.States[proxy.IPv6]))

	one := Build(nil, c.input(with(testFacts(), func(f *Facts) { f.Families = []proxy.Family{proxy.IPv4} })))
	if len(one.States) != 1 || one.States[proxy.IPv4] == nil {
		t.Errorf("a family that is not in use has a State: %v", one.States)
	}
}
