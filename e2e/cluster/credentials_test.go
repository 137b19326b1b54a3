package cluster

import (
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/e2e/cluster/plane"
)

// credentials are the certificates or tokens that the API server accepted from the proxy, in the order of their first use.
func (c *cluster) credentials(t *testing.T) (out []string) {
	t.Helper()
	requests, err := c.plane.Requests(c.user)
	must(t, err)
	for _, r := range requests {
		if r.Code < 300 && !slices.Contains(out, r.Credential) {
			out = append(out, r.Credential)
		}
	}
	return out
}

// TestCertificateRenewed renews the proxy's client certificate, once in time and once after it has expired. The process that runs must
// use the new one.
func TestCertificateRenewed(t *testing.T) {
	c := own(t)
	// Counted from the same moment, as the second certificate is made long before the first has expired.
	start := time.Now()
	const firstLasts, secondLasts = 40 * time.Second, 70 * time.Second
	valid := func(until time.Duration) plane.Identity {
		return plane.Identity{User: plane.NodeProxy.User, ValidFor: time.Until(start.Add(until))}
	}
	expired := func(lasted time.Duration) { time.Sleep(time.Until(start.Add(lasted + 2*time.Second))) }
	first, err := c.start(valid(firstLasts))
	must(t, err)
	s := c.scene(t)
	service := s.create(plain("web"), "pod-2")
	s.follow()
	s.reached(service, "with the first certificate", "pod-2")

	renew := func(id plane.Identity) {
		t.Helper()
		_, err := s.plane.Kubeconfig("proxy", id)
		must(t, err)
	}
	renew(valid(secondLasts))
	expired(firstLasts)
	s.plane.Front.Cut()
	s.run("web", "pod-3")
	s.follow()
	s.reached(service, "with a certificate renewed in time", "pod-2", "pod-3")

	expired(secondLasts)
	before := len(s.proxy.Log())
	s.plane.Front.Cut()
	eventually(t, "the log says that the API server does not accept the certificate", func() string {
		if log := s.proxy.Log()[before:]; !strings.Contains(log, "Unauthorized") {
			return log
		}
		return ""
	})
	s.reached(service, "with a certificate that has expired", "pod-2", "pod-3")
	renew(plane.NodeProxy)
	// client-go remembers the files of a certificate for a second, and what a connection was made with counts as long as it lasts.
	time.Sleep(1500 * time.Millisecond)
	s.plane.Front.Cut()
	must(t, s.plane.RemovePod(s.ctx, s.ns, pod("web", "pod-2")))
	s.follow()
	s.reached(service, "with a certificate renewed late", "pod-3")
	if got := s.credentials(t); len(got) != 3 {
		t.Errorf("the API server accepted the certificates %v, want three", got)
	}
	if s.proxy != first || !first.Running() {
		t.Error("the process that was started first ended")
	}
}

// tokenMemory is longer than client-go goes on with a token that it has read: a minute.
const tokenMemory = 61 * time.Second

// TestTokenRenewed runs the proxy as a ServiceAccount, as in a pod, and renews its token. The process that runs must use the new one.
func TestTokenRenewed(t *testing.T) {
	const namespace, account = "kube-system", "kube-proxy"
	c := own(t)
	_, err := c.plane.Admin.CoreV1().ServiceAccounts(namespace).Create(c.ctx, &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{})
	must(t, err)
	_, err = c.plane.Admin.RbacV1().ClusterRoleBindings().Create(c.ctx, &rbac.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "kubeadm:node-proxier"},
		RoleRef:    rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: "system:node-proxier"},
		Subjects:   []rbac.Subject{{Kind: rbac.ServiceAccountKind, Namespace: namespace, Name: account}},
	}, metav1.CreateOptions{})
	must(t, err)
	// The API server may learn of the binding a moment after its making.
	bound := time.Now().Add(5 * time.Second)
	c.mayBeForbidden = func(r plane.Request) bool { return r.At.Before(bound) }
	renew := func() string {
		t.Helper()
		kubeconfig, err := c.plane.TokenKubeconfig(c.ctx, "token", namespace, account)
		must(t, err)
		return kubeconfig
	}
	first, err := c.startWith(renew(), "system:serviceaccount:"+namespace+":"+account)
	must(t, err)
	s := c.scene(t)
	service := s.create(plain("web"), "pod-2")
	s.follow()
	s.reached(service, "with the first token", "pod-2")
	before := s.credentials(t)

	renew()
	time.Sleep(tokenMemory)
	s.plane.Front.Cut()
	s.run("web", "pod-3")
	s.follow()
	s.reached(service, "with the second token", "pod-2", "pod-3")
	if got := s.credentials(t); len(before) != 1 || len(got) != 2 {
		t.Errorf("the API server accepted the tokens %v, at first %v; want one more", got, before)
	}
	if s.proxy != first || !first.Running() {
		t.Error("the process that was started first ended")
	}
}
