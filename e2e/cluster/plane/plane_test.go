package plane

import (
	"context"
	"flag"
	"net"
	"os"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	rbac "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"turnout/proxy"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/lab"
)

var (
	binaries = flag.String("binaries", "", "the folder with the control plane's programs; where hack/e2e.sh builds them if empty")
	_        = flag.String("binary", "", "no proxy runs in the tests of this package: accepted since go test gives all packages the same flags")
)

func TestMain(m *testing.M) { os.Exit(proxytest.Main(m)) }

// TestPlane does once what other tests build upon.
func TestPlane(t *testing.T) {
	l := lab.ForTest(t)
	// No longer than that it waits for watches when it is stopped.
	p := Start(t, l, Options{Binaries: *binaries, APIServerArgs: []string{"--request-timeout=5s"}})
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if err := p.RegisterNodes(ctx); err != nil {
		t.Fatal(err)
	}
	t.Run("controllers make slices of pods", func(t *testing.T) { slicesOfPods(ctx, t, p) })
	t.Run("rights of a service proxy", func(t *testing.T) { rights(ctx, t, p) })
	t.Run("tokens are renewed", func(t *testing.T) { tokens(ctx, t, p) })
	t.Run("the front fails", func(t *testing.T) { front(ctx, t, p) })
	t.Run("the API server is stopped and started", func(t *testing.T) { restart(ctx, t, p) })
	if l.Node().Dial(proxy.TCP, p.frontAddr, lab.DialOptions{}).Result == lab.Refused {
		t.Error("the front refuses connections at the end")
	}
}

func slicesOfPods(ctx context.Context, t *testing.T, p *Plane) {
	labels := map[string]string{"app": "web"}
	for _, pod := range []Pod{{Name: "one", Host: "pod-1"}, {Name: "two", Host: "pod-4", NotReady: true}} {
		pod.Namespace, pod.Labels = "default", labels
		if err := p.RunPod(ctx, pod); err != nil {
			t.Fatal(err)
		}
	}
	s := &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}}
	s.Spec = v1.ServiceSpec{Selector: labels, Ports: []v1.ServicePort{{Port: 80}}, IPFamilyPolicy: new(v1.IPFamilyPolicyRequireDualStack)}
	if _, err := p.Admin.CoreV1().Services("default").Create(ctx, s, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	wantReady := func(want map[string]bool) {
		t.Helper()
		var got map[string]bool
		for ; ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
			got = readiness(ctx, t, p, "web")
			if len(got) == len(want) {
				same := true
				for a, is := range want {
					same = same && got[a] == is
				}
				if same {
					return
				}
			}
		}
		t.Fatalf("endpoints and whether they are ready: %v, want %v", got, want)
	}
	wantReady(map[string]bool{"10.244.1.2": true, "fd00:10:244:1::2": true, "10.244.2.2": false, "fd00:10:244:2::2": false})
	if err := p.SetReady(ctx, "default", "two", true); err != nil {
		t.Fatal(err)
	}
	if err := p.Terminate(ctx, "default", "one"); err != nil {
		t.Fatal(err)
	}
	wantReady(map[string]bool{"10.244.1.2": false, "fd00:10:244:1::2": false, "10.244.2.2": true, "fd00:10:244:2::2": true})
	if err := p.RemovePod(ctx, "default", "one"); err != nil {
		t.Fatal(err)
	}
	wantReady(map[string]bool{"10.244.2.2": true, "fd00:10:244:2::2": true})
}

func readiness(ctx context.Context, t *testing.T, p *Plane, service string) map[string]bool {
	t.Helper()
	list, err := p.Admin.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{LabelSelector: discovery.LabelServiceName + "=" + service})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, s := range list.Items {
		for _, e := range s.Endpoints {
			out[e.Addresses[0]] = *e.Conditions.Ready
		}
	}
	return out
}

// client is that of a program on n1.
func client(t *testing.T, p *Plane, kubeconfig string) kubernetes.Interface {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.Timeout = 10 * time.Second
	config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		return p.lab.Node().DialContext(ctx, network, address)
	}
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func rights(ctx context.Context, t *testing.T, p *Plane) {
	kubeconfig, err := p.Kubeconfig("proxy", NodeProxy)
	if err != nil {
		t.Fatal(err)
	}
	c := client(t, p, kubeconfig)
	if _, err := c.CoreV1().Services("").List(ctx, metav1.ListOptions{}); err != nil {
		t.Errorf("list Services: %v", err)
	}
	if _, err := c.CoreV1().Pods("").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("list Pods: %v, want it to be forbidden", err)
	}
	var got []Request
	for ; len(got) < 2 && ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		if got, err = p.Requests(NodeProxy.User); err != nil {
			t.Fatal(err)
		}
	}
	if len(got) != 2 || got[0].String() != "list services: 200" || got[0].Forbidden() || got[1].String() != "list pods: 403" || !got[1].Forbidden() {
		t.Errorf("requests: %v", got)
	}
	if len(got) > 0 && got[0].Credential == "" {
		t.Errorf("%+v without a credential", got[0])
	}
}

func tokens(ctx context.Context, t *testing.T, p *Plane) {
	account := &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "proxy"}}
	if _, err := p.Admin.CoreV1().ServiceAccounts("kube-system").Create(ctx, account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbac.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "proxy"},
		RoleRef:  rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: "system:node-proxier"},
		Subjects: []rbac.Subject{{Kind: rbac.ServiceAccountKind, Namespace: "kube-system", Name: "proxy"}}}
	if _, err := p.Admin.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	list := func(kubeconfig string) error {
		_, err := client(t, p, kubeconfig).CoreV1().Services("").List(ctx, metav1.ListOptions{})
		return err
	}
	kubeconfig, err := p.TokenKubeconfig(ctx, "account", "kube-system", "proxy")
	if err != nil {
		t.Fatal(err)
	}
	for err = list(kubeconfig); err != nil && ctx.Err() == nil; err = list(kubeconfig) {
		time.Sleep(10 * time.Millisecond) // the API server learns of the binding after its making
	}
	if err != nil {
		t.Fatalf("list Services: %v", err)
	}
	if again, err := p.TokenKubeconfig(ctx, "account", "kube-system", "proxy"); err != nil || again != kubeconfig {
		t.Fatalf("renewed: %s, %v; want %s", again, err, kubeconfig)
	}
	if err := list(kubeconfig); err != nil {
		t.Errorf("with the new token: %v", err)
	}
	requests, err := p.Requests("system:serviceaccount:kube-system:proxy")
	if err != nil {
		t.Fatal(err)
	}
	if first, last := requests[0], requests[len(requests)-1]; first.Credential == last.Credential {
		t.Errorf("the new token is the old one: %s", last.Credential)
	}
}

func front(ctx context.Context, t *testing.T, p *Plane) {
	c := client(t, p, p.Path("proxy.kubeconfig"))
	w, err := c.CoreV1().Services("").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if n := p.Front.Connections(); n == 0 {
		t.Error("a watch is open, but no connection")
	}
	if n := p.Front.Cut(); n == 0 {
		t.Error("no connection was cut")
	}
	for open := true; open; {
		select {
		case _, open = <-w.ResultChan():
		case <-ctx.Done():
			t.Fatal("the watch goes on")
		}
	}
	list := func() error {
		_, err := c.CoreV1().Services("").List(ctx, metav1.ListOptions{})
		return err
	}
	if err := list(); err != nil {
		t.Errorf("after the cut: %v", err)
	}
	if n := p.Front.Freeze(); n == 0 {
		t.Error("no connection was frozen")
	}
	brief, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if _, err := c.CoreV1().Services("").List(brief, metav1.ListOptions{}); err == nil {
		t.Error("answered through a frozen connection")
	}
	p.Front.Cut()
	if err := list(); err != nil {
		t.Errorf("after frozen connections were cut: %v", err)
	}
	p.Front.Shut()
	if err := list(); err == nil {
		t.Error("connected through a front that is shut")
	}
	if _, err := p.Admin.CoreV1().Services("").List(ctx, metav1.ListOptions{}); err != nil {
		t.Errorf("the administrator, while the front is shut: %v", err)
	}
	if err := p.Front.Open(); err != nil {
		t.Fatal(err)
	}
	if err := list(); err != nil {
		t.Errorf("after the front was opened: %v", err)
	}
}

func restart(ctx context.Context, t *testing.T, p *Plane) {
	for _, end := range []func() error{p.StopAPIServer, func() error { p.KillAPIServer(); return nil }} {
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Admin.CoreV1().Services("default").Get(ctx, "web", metav1.GetOptions{}); err == nil {
			t.Error("the API server answers after its end")
		}
		if err := p.StartAPIServer(); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Admin.CoreV1().Services("default").Get(ctx, "web", metav1.GetOptions{}); err != nil {
			t.Errorf("after the restart: %v", err)
		}
	}
}
