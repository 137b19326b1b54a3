package manifests

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authentication "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"turnout/e2e/cluster/plane"
	"turnout/proxy/proxytest/lab"
)

// mine is an overlay as docs/install.md shows it; HOST and PORT stand for the API server.
const mine = `
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: kube-system
resources: [MANIFESTS/base]
images:
- {name: turnout, newName: mine/turnout, newTag: v1}
configMapGenerator:
- name: turnout
  behavior: merge
  files: [config.conf]
- name: turnout-control-plane
  behavior: merge
  literals: [host=HOST, port=PORT]
`

// mineConfig leaves to the machine what a network namespace cannot have for itself.
const mineConfig = `
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: 10.244.0.0/16,fd00:10:244::/48
conntrack: {maxPerCore: 0, min: 0}
`

// TestOnNode runs what the DaemonSet's containers would run on a node, one after the other: the same command and environment, the files
// that the kubelet would mount, and for the proxy no capability but CAP_NET_ADMIN and a read-only /proc/sys. It must get ready with the
// rights of its ServiceAccount, and never ask for more.
func TestOnNode(t *testing.T) {
	if *binaryFlag == "" {
		t.Skip("no -binary given")
	}
	p, l := newPlane(t)
	c := newClient(t, p)
	address := front(t, p)
	kustomization := strings.NewReplacer("HOST", address["host"], "PORT", address["port"]).Replace(mine)
	objects := build(t, overlay(t, kustomization, map[string]string{"config.conf": mineConfig}))
	c.apply(objects...)
	pod := daemonSet(t, objects).Spec.Template.Spec
	if pod.Containers[0].Image != "mine/turnout:v1" {
		t.Errorf("image %s", pod.Containers[0].Image)
	}
	root := mounts(t, p, objects)

	cmd, log := command(t, root, address, pod.InitContainers[0], "exec")
	if err := l.Node().Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("init container: %v\n%s", err, contents(t, log))
	}
	cmd, log = command(t, root, address, pod.Containers[0], "mount --bind -o ro /proc/sys /proc/sys && exec setpriv --no-new-privs --bounding-set=-all,+net_admin")
	if err := l.Node().Start(cmd); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			t.Log(contents(t, log))
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	eventually(t, func(context.Context) error { return probe(l, pod.Containers[0].ReadinessProbe.HTTPGet.Path) })
	if err := probe(l, pod.Containers[0].LivenessProbe.HTTPGet.Path); err != nil {
		t.Error(err)
	}
	if text := contents(t, log); strings.Contains(text, "A setting of connection tracking stays as it is") {
		t.Errorf("--init-only left something to do:\n%s", text)
	}
	requests, err := p.Requests("system:serviceaccount:kube-system:turnout")
	if err != nil || len(requests) < 4 {
		t.Errorf("requests %v: %v", requests, err)
	}
	for _, r := range requests {
		if r.Forbidden() {
			t.Errorf("not permitted: %v", r)
		}
	}
}

// front returns the API server's address as nodes reach it, under the keys that the ConfigMap turnout-control-plane has.
func front(t *testing.T, p *plane.Plane) map[string]string {
	t.Helper()
	path, err := p.Kubeconfig("front", plane.NodeProxy)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(contents(t, path), "server: https://")
	address, _, _ := strings.Cut(rest, "\n")
	host, port, err := net.SplitHostPort(strings.TrimSpace(address))
	if !found || err != nil {
		t.Fatalf("no address of the API server in %s: %v", path, err)
	}
	return map[string]string{"host": host, "port": port}
}

// mounts writes what the kubelet mounts into the containers: the ConfigMap, and the ServiceAccount's token and certificate.
func mounts(t *testing.T, p *plane.Plane, objects []*unstructured.Unstructured) string {
	t.Helper()
	root := t.TempDir()
	write := func(name, content string) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range objects {
		if text, ok, _ := unstructured.NestedString(o.Object, "data", "config.conf"); ok {
			write("config/config.conf", text)
		}
	}
	request := &authentication.TokenRequest{Spec: authentication.TokenRequestSpec{ExpirationSeconds: new(int64(3600))}}
	answer, err := p.Admin.CoreV1().ServiceAccounts("kube-system").CreateToken(t.Context(), "turnout", request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	write("account/token", answer.Status.Token)
	write("account/ca.crt", contents(t, p.Path("ca.crt")))
	return root
}

// command runs a container's command in a mount namespace of its own, in which files are where the kubelet mounts them. It returns the
// file of its log, too.
func command(t *testing.T, root string, controlPlane map[string]string, c v1.Container, before string) (*exec.Cmd, string) {
	t.Helper()
	binary, err := filepath.Abs(*binaryFlag)
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{binary}, c.Command[1:]...)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "$(NODE_NAME)", "n1")
	}
	script := fmt.Sprintf(`
		mount -t tmpfs none /run && mount -t tmpfs none /var/lib &&
		mkdir -p /run/secrets/kubernetes.io/serviceaccount /var/lib/turnout &&
		mount --bind %[1]s/account /run/secrets/kubernetes.io/serviceaccount && mount --bind %[1]s/config /var/lib/turnout &&
		%[2]s "$@"`, root, before)
	cmd := exec.Command("unshare", append([]string{"--mount", "sh", "-c", script, "sh"}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	for _, e := range c.Env {
		if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
			cmd.Env = append(cmd.Env, e.Name+"="+controlPlane[e.ValueFrom.ConfigMapKeyRef.Key])
		}
	}
	log, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	return cmd, log.Name()
}

// probe is what the kubelet does: it asks the health server at the node's address.
func probe(l *lab.Lab, path string) error {
	transport := &http.Transport{DisableKeepAlives: true}
	transport.DialContext = func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = l.Node().Do(func() (err error) {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
	client := http.Client{Transport: transport, Timeout: 5 * time.Second}
	answer, err := client.Get("http://" + net.JoinHostPort(l.Node().Addrs[0].String(), "10256") + path)
	if err != nil {
		return err
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, answer.Status)
	}
	return nil
}

func contents(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
