package manifests

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

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

// mineConfig is what goes with it.
const mineConfig = `
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: 10.244.0.0/16,fd00:10:244::/48
` + unlimited

// TestOnNode runs the DaemonSet's containers on a node, one after the other, the proxy with no capability but CAP_NET_ADMIN and with a
// read-only /proc/sys. It must get ready with the rights of its ServiceAccount, and never ask for more.
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
	pod := &v1.Pod{Spec: daemonSet(t, objects).Spec.Template.Spec}
	pod.Namespace = "kube-system"
	if image := pod.Spec.Containers[0].Image; image != "mine/turnout:v1" {
		t.Errorf("image %s", image)
	}
	m := &machine{t, p, l.Node()}

	cmd, log := start(m, pod, pod.Spec.InitContainers[0])
	if err := cmd.Wait(); err != nil {
		t.Fatalf("init container: %v\n%s", err, contents(t, log))
	}
	cmd, log = start(m, pod, pod.Spec.Containers[0])
	defer func() {
		if t.Failed() {
			t.Log(contents(t, log))
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	container := pod.Spec.Containers[0]
	eventually(t, func(context.Context) error { return probe(l.Node(), container.ReadinessProbe.HTTPGet.Path) })
	if err := probe(l.Node(), container.LivenessProbe.HTTPGet.Path); err != nil {
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

// start runs a container, and returns the file of its log, too.
func start(m *machine, pod *v1.Pod, c v1.Container) (*exec.Cmd, string) {
	m.t.Helper()
	cmd, err := m.command(pod, c)
	if err != nil {
		m.t.Fatal(err)
	}
	log, err := os.CreateTemp(m.t.TempDir(), "log")
	if err != nil {
		m.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := m.host.Start(cmd); err != nil {
		m.t.Fatal(err)
	}
	return cmd, log.Name()
}

// probe is what the kubelet does: it asks the health server at the node's address.
func probe(host *lab.Host, path string) error {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: host.DialContext}
	client := http.Client{Transport: transport, Timeout: 5 * time.Second}
	answer, err := client.Get("http://" + net.JoinHostPort(host.Addrs[0].String(), "10256") + path)
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
