package manifests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apps "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/component-base/cli"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"

	"turnout/e2e/cluster/plane"
)

// kubectl is what this program does when it is called by that name.
func kubectl() {
	util.CheckErr(cli.RunNoErrOutput(kubectlcmd.NewDefaultKubectlCommand()))
}

// elsewhere are the commands that are not run here, by how they begin, with the reason.
var elsewhere = map[string]string{
	"make demo":              "continuous integration runs it",
	"make test":              "continuous integration runs it",
	"make build":             "this test runs what it makes",
	"make image":             "make image-test builds the image, as far as that goes without the Internet",
	"make image-test":        "needs ten minutes and root on Debian",
	"make manifests":         "this is a part of it",
	"make e2e-compare":       "continuous integration runs it",
	"docker push":            "needs a registry",
	"ansible-playbook":       "needs Ansible, with which it was run by hand",
	"kind ":                  "needs Docker and kind; the tests of e2e/kind hold the commands",
	"kubectl get -o yaml":    "names the form of manifests",
	"turnout config convert": "names a command that migrate.md has with its arguments",
	"turnout preflight":      "names a command, or needs jq",
}

// admin is who runs the commands.
var admin = plane.Identity{User: "admin", Groups: []string{"system:masters"}}

// TestCommands runs the commands of the pages one after the other, word for word, on a node: kubectl with a cluster that kubeadm's own code
// gave kube-proxy, whose pods are the program under test wherever they have its image.
func TestCommands(t *testing.T) {
	if *binaryFlag == "" {
		t.Skip("no -binary given")
	}
	for _, program := range []string{"bash", "curl", "sed", "nft", "iptables", "conntrack", "unshare", "setpriv"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("the commands need %s: %v", program, err)
		}
	}
	p, l := newPlane(t)
	original := kubeadmAddon(t, p, "")
	kubeconfig, err := p.Kubeconfig("admin", admin)
	if err != nil {
		t.Fatal(err)
	}
	w := &walk{shell: newShell(t, l.Node(), "KUBECONFIG="+kubeconfig, "NODE=n1", "HOME="+t.TempDir()), plane: p, kubelets: startKubelets(t, p, l), original: original}
	w.prepare()
	for _, step := range []struct {
		name string
		do   func(*walk)
	}{
		{"before", (*walk).before}, {"node by node", (*walk).staged}, {"a running cluster", (*walk).patched}, {"without kube-proxy", (*walk).alone},
		{"from mode to mode", (*walk).modes}, {"troubleshooting", (*walk).trouble}, {"monitoring", (*walk).monitoring}, {"kind", (*walk).kind}, {"no proxy", (*walk).cleanup},
		{"no cluster", (*walk).manifests},
	} {
		if !t.Run(step.name, func(t *testing.T) {
			w.t = t
			step.do(w)
		}) {
			return
		}
	}
	w.t = t
	w.rest(elsewhere)
}

// walk is the way of an operator through the pages.
type walk struct {
	*shell
	plane    *plane.Plane
	kubelets *kubelets
	original *apps.DaemonSet // kube-proxy's, as kubeadm made it
	root     string          // the repository as the operator has it, in the folder turnout below
}

// prepare makes the operator's folder, and the programs that there are.
func (w *walk) prepare() {
	w.t.Helper()
	self, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	binary, err := filepath.Abs(*binaryFlag)
	if err != nil {
		w.t.Fatal(err)
	}
	w.provide("kubectl", self)
	w.provide("turnout", binary)
	w.root = w.t.TempDir()
	for _, name := range []string{"manifests", "examples"} {
		if err := os.CopyFS(filepath.Join(w.root, "turnout", name), os.DirFS(filepath.Join(folder, "..", name))); err != nil {
			w.t.Fatal(err)
		}
	}
	bin := filepath.Join(w.root, "turnout", "bin")
	if err := errors.Join(os.Mkdir(bin, 0o755), os.Symlink(binary, filepath.Join(bin, "turnout"))); err != nil {
		w.t.Fatal(err)
	}
	w.in("")
}

// in changes to a folder below that of the operator.
func (w *walk) in(dir string) { w.dir = filepath.Join(w.root, dir) }

// expect checks what a command printed.
func (w *walk) expect(got string, want ...string) {
	w.t.Helper()
	for _, text := range want {
		if !strings.Contains(got, text) {
			w.t.Errorf("no %q in\n%s", text, got)
		}
	}
}

// label labels a node.
func (w *walk) label(node, label string) {
	w.t.Helper()
	if out, err := w.bash("kubectl label node " + node + " " + label); err != nil {
		w.t.Fatalf("%v: %s", err, out)
	}
}

// images waits until n1 and n2 have one pod each with these images, or none.
func (w *walk) images(n1, n2 string) {
	w.t.Helper()
	want := ""
	for _, pod := range [][2]string{{"n1", n1}, {"n2", n2}} {
		if pod[1] != "" {
			want += pod[0] + "=" + pod[1] + "\n"
		}
	}
	eventually(w.t, func(context.Context) error {
		got, err := w.bash(`kubectl -n kube-system get pods -o jsonpath='{range .items[*]}{.spec.nodeName}={.spec.containers[0].image}{"\n"}{end}' | sort`)
		if err == nil && got != want {
			err = fmt.Errorf("pods %q, want %q", got, want)
		}
		return err
	})
}

const (
	upstream = "registry.k8s.io/kube-proxy:1.0.0-placeholder-version" // where kubeadm is not built for a release
	image    = "REGISTRY/turnout:v0.1.0"
)

// before looks at kube-proxy's configuration and translates it.
func (w *walk) before() {
	w.run(install, "kubectl -n kube-system get configmap")
	w.run(migrate, "kubectl -n kube-system get configmap")
	w.run(migrate, "turnout config check")
	w.run(migrate, "turnout config convert")
	w.run(configuration, "kubectl -n kube-system get configmap")
	w.run(configuration, "turnout config check -f config.conf  ")
	w.run(configuration, "turnout config check -f config.conf --mode nftables")
	w.run(configuration, "turnout config convert")
	w.run(configuration, "turnout --help")
	w.asked(migrate, "turnout preflight --to nftables", "mode nftables: ")
	w.asked(migrate, "turnout preflight --to iptables", "mode iptables: ")
	w.debugged()
	w.asked(preflight, "turnout preflight --to nftables --config", "mode nftables: ")
	w.run(readme, "turnout config check", "FILE", "config.conf")
	w.run(troubleshoot, "turnout config check", "FILE", "config.conf")
	w.run(install, "turnout config check", "check", "check -f config.conf")
}

// asked has preflight say something about the node. Warnings, which make the exit code 1, depend on the machine.
func (w *walk) asked(page, command, says string) {
	out, _ := w.try(page, command)
	w.expect(out, says)
	if strings.Contains(out, "  blocked  ") {
		w.t.Errorf("%s: blocked", command)
	}
}

// debugged asks a node that nobody can log in to: the API server takes the pod, and what that would run is run here.
func (w *walk) debugged() {
	w.run(migrate, "kubectl debug", " -it ", " ")
	out, err := w.bash(`kubectl get pods -o jsonpath='{range .items[0].spec}{.hostNetwork} {.containers[0].securityContext.privileged} {.containers[0].volumeMounts[0].mountPath}{end}'`)
	if want := "true true /host"; err != nil || out != want {
		w.t.Errorf("the pod has %q, %v; want %q", out, err, want)
	}
	if out, err := w.bash("kubectl delete pods --all --force --grace-period=0"); err != nil {
		w.t.Fatalf("%v: %s", err, out)
	}
	out, _ = w.try(migrate, "kubectl debug", "kubectl debug node/$NODE -it --image="+image+" --profile=sysadmin -- /usr/local/bin/", "", "/host", "/")
	w.expect(out, "mode nftables: ")
}

// staged moves n1 to Turnout and back by its label.
func (w *walk) staged() {
	w.in("turnout")
	w.run(migrate, "kubectl -n kube-system patch daemonset kube-proxy --patch-file manifests/overlays/staged")
	w.run(migrate, "kubectl -n kube-system rollout status")
	w.in("")
	w.write("kustomization.yaml", w.pages[migrate].file(w.t, "kustomization.yaml"))
	w.run(migrate, "kubectl apply --server-side -k")
	w.images(upstream, upstream)
	w.run(migrate, "NODE=worker-1")
	w.run(migrate, "kubectl label node $NODE service-proxy=turnout")
	w.run(install, "kubectl -n kube-system rollout status daemonset turnout")
	w.expect(w.run(migrate, "kubectl -n kube-system get pods -o wide"), "turnout-")
	w.expect(w.run(migrate, "kubectl -n kube-system logs"), "[pod/turnout-", "/turnout] ", "All Services and EndpointSlices were delivered")
	w.images(image, upstream)
	w.unlabelled()
	w.run(migrate, "kubectl label node $NODE service-proxy-")
	w.run(migrate, "kubectl -n kube-system rollout status")
	w.images(upstream, upstream)
	w.label("n1", "service-proxy=other")
	w.images("", upstream)
	w.label("n1", "service-proxy-")
	w.images(upstream, upstream)
	w.run(migrate, "kubectl delete -k .")
	w.run(migrate, "kubectl -n kube-system patch daemonset kube-proxy --type json")
	w.run(migrate, "kubectl -n kube-system rollout status")
}

// unlabelled looks at what the page adds to the overlay at the end.
func (w *walk) unlabelled() {
	file := w.pages[migrate].file(w.t, "kustomization.yaml")
	w.write("kustomization.yaml", file+w.pages[migrate].file(w.t, "at the end"))
	out, err := w.bash("kubectl kustomize .")
	if err != nil || strings.Contains(out, "service-proxy: ") {
		w.t.Errorf("%v, with the label:\n%s", err, out)
	}
	w.write("kustomization.yaml", file)
}

// patched makes Turnout of the DaemonSet, and kube-proxy again, three times.
func (w *walk) patched() {
	before := kubeProxy(w.t.Context(), w.t, w.plane)
	w.run(migrate, "kubectl -n kube-system create configmap")
	w.patch()
	w.expect(w.run(migrate, "kubectl -n kube-system rollout history"), fmt.Sprintf("\n%d ", before.Generation))
	w.run(migrate, "kubectl -n kube-system rollout undo", "--to-revision=N", fmt.Sprintf("--to-revision=%d", before.Generation))
	w.backAgain()
	w.run(readme, "sed")
	w.run(migrate, "kubectl -n kube-system rollout status")
	w.images(image, image)
	w.run(readme, "kubectl -n kube-system patch daemonset kube-proxy --patch-file manifests/overlays/kubeadm/back.yaml")
	w.run(readme, "kubectl -n kube-system set image", "IMAGE_OF_KUBE_PROXY", upstream)
	w.backAgain()
	w.patch()
	w.run(migrate, "kubectl -n kube-system patch daemonset kube-proxy --patch-file manifests/overlays/kubeadm/back.yaml")
	w.run(migrate, "kubectl -n kube-system set image", "IMAGE_OF_KUBE_PROXY", upstream)
	w.backAgain()
	w.run(migrate, "kubectl -n kube-system delete daemonset kube-proxy")
}

// patch makes Turnout of the DaemonSet.
func (w *walk) patch() {
	w.in("turnout")
	w.run(install, "cd manifests/overlays/kubeadm")
	w.in("turnout/manifests/overlays/kubeadm")
	w.run(install, "for patch in")
	w.run(install, "kubectl -n kube-system rollout status daemonset kube-proxy")
	w.images(image, image)
	w.in("turnout")
}

// backAgain waits until kube-proxy runs again, and looks whether the DaemonSet is as it was.
func (w *walk) backAgain() {
	w.t.Helper()
	w.run(migrate, "kubectl -n kube-system rollout status")
	w.images(upstream, upstream)
	if diff := cmp.Diff(w.original.Spec, kubeProxy(w.t.Context(), w.t, w.plane).Spec); diff != "" {
		w.t.Errorf("there and back (-want +got)\n%s", diff)
	}
}

// alone installs Turnout where there is no kube-proxy, by the overlay of the page.
func (w *walk) alone() {
	address := front(w.t, w.plane)
	w.in("")
	w.write("kustomization.yaml", strings.ReplaceAll(w.pages[install].file(w.t, "kustomization.yaml"), "host=10.0.0.10, port=6443",
		fmt.Sprintf("host=%s, port=%s", address["host"], address["port"])))
	w.write("config.conf", w.pages[install].file(w.t, "config.conf")+unlimited)
	w.run(install, "kubectl apply -k .")
	w.run(install, "kubectl -n kube-system rollout status daemonset turnout")
	w.images(image, image)
	w.run(install, "kubectl apply -k .") // once more, it changes nothing
}

// modes has a node take its mode from a label, and again from the configuration.
func (w *walk) modes() {
	w.run(migrate, "kubectl label node $NODE turnout/proxy-mode=nftables")
	w.becomes(func() (string, error) {
		return w.try(migrate, "kubectl get events --field-selector involvedObject.kind=Node,involvedObject.name=$NODE")
	}, "ProxyModeChosen", "mode nftables (node_label)")
	w.expect(w.run(migrate, "curl localhost:10249/proxyMode")+w.run(troubleshoot, "curl localhost:10249/proxyMode"), "nftables")
	w.run(migrate, "kubectl label node $NODE turnout/proxy-mode-")
	w.label("n2", "turnout/proxy-mode=auto")
	w.label("n1", "turnout/proxy-mode=nftables")
	w.run(migrate, "kubectl label nodes -l turnout/proxy-mode=nftables")
	if out, err := w.bash("kubectl get nodes -l turnout/proxy-mode -o name"); err != nil || out != "node/n2\n" {
		w.t.Errorf("%v, nodes with a label of their own: %s", err, out)
	}
	w.label("n2", "turnout/proxy-mode-")
}

// trouble looks at what the page names, with a Service of which something is wrong.
func (w *walk) trouble() {
	services := w.plane.Admin.CoreV1().Services("default")
	s := &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: "api"}}
	s.Spec = v1.ServiceSpec{ClusterIP: "10.96.0.30", Selector: map[string]string{"app": "api"}, Ports: []v1.ServicePort{{Name: "http", Port: 80}},
		Type: v1.ServiceTypeLoadBalancer, LoadBalancerSourceRanges: []string{"192.168.50.100/32"}, ExternalIPs: []string{"192.168.60.7"}}
	made, err := services.Create(w.t.Context(), s, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.plane.RunPod(w.t.Context(), plane.Pod{Namespace: "default", Name: "api", Host: "pod-1", Labels: map[string]string{"app": "api"}}); err != nil {
		w.t.Fatal(err)
	}
	made.Name, made.ResourceVersion, made.UID, made.Spec.ClusterIP, made.Spec.ClusterIPs = "twin", "", "", "", nil
	made.Spec.Ports[0].NodePort, made.Spec.HealthCheckNodePort = 0, 0
	if _, err := services.Create(w.t.Context(), made, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	w.becomes(func() (string, error) { return w.try(troubleshoot, "curl -s localhost:10249/debug/state") }, "ClusterIP 10.96.0.30:80/TCP", "cluster pool 10.244.1.2")
	for start, want := range map[string]string{
		"curl localhost:10256/readyz": `"`, "curl localhost:10256/healthz": `"lastUpdated"`, "curl localhost:10249/debug/state": "default/api:http/TCP",
		"curl localhost:10249/metrics": "kubeproxy_sync_proxy_rules_duration_seconds", "curl localhost:10249/configz": "clusterCIDR",
		"nft list table ip kube-proxy": "10.96.0.30", "nft list ruleset": "kube-proxy",
	} {
		w.expect(w.run(troubleshoot, start), want)
	}
	w.expect(w.run(readme, "curl localhost:10256/readyz")+w.run(readme, "curl localhost:10249/debug/state"), "default/api:http/TCP")
	w.expect(w.run(troubleshoot, "kubectl get endpointslices", "NAME", "api"), "10.244.1.2")
	w.run(troubleshoot, "conntrack", "ADDRESS", "10.96.0.30")
	w.run(troubleshoot, "iptables -S")
	w.becomes(func() (string, error) {
		return w.try(troubleshoot, "kubectl get events -A --field-selector reason=ServiceNotFullyProxied")
	}, "192.168.60.7")
	w.run(troubleshoot, "kubectl get events -A --field-selector reason=ServiceRejectedByKernel")
	w.run(troubleshoot, "kubectl get events -A --field-selector reason=FailedToStartServiceHealthcheck")
	w.expect(w.run(troubleshoot, "kubectl get events --field-selector involvedObject.kind=Node"), "Starting")
	w.logs()
}

// logs reads the log of a pod whose container crashed, before and after.
func (w *walk) logs() {
	out, err := w.bash("kubectl -n kube-system get pods --field-selector spec.nodeName=n1 -o name")
	if err != nil {
		w.t.Fatal(err)
	}
	pod := strings.TrimPrefix(strings.TrimSpace(out), "pod/")
	first := w.run(troubleshoot, "kubectl -n kube-system logs POD", "POD", pod)
	w.expect(first, "All Services and EndpointSlices were delivered")
	w.kubelets.kill(pod)
	w.becomes(func() (string, error) {
		return w.try(troubleshoot, "kubectl -n kube-system logs --previous", "--previous", "--previous "+pod)
	}, strings.Split(first, "\n")[0])
	w.becomes(func() (string, error) { return w.try(readme, "curl localhost:10256/readyz") }, "")
}

// becomes waits until a command prints something.
func (w *walk) becomes(run func() (string, error), want ...string) {
	w.t.Helper()
	eventually(w.t, func(context.Context) error {
		out, err := run()
		for _, text := range want {
			if err == nil && !strings.Contains(out, text) {
				err = fmt.Errorf("no %q in %s", text, out)
			}
		}
		return err
	})
}

// monitoring installs what the Prometheus Operator reads, where its kinds are known.
func (w *walk) monitoring() {
	c := newClient(w.t, w.plane)
	for kind, plural := range map[string]string{"PodMonitor": "podmonitors", "PrometheusRule": "prometheusrules"} {
		c.apply(&unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": plural + ".monitoring.coreos.com"},
			"spec": map[string]any{"group": "monitoring.coreos.com", "scope": "Namespaced", "names": map[string]any{"kind": kind, "plural": plural},
				"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true, "schema": map[string]any{
					"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true},
				}}}},
		}})
	}
	w.in("turnout")
	w.becomes(func() (string, error) { return w.try(install, "kubectl apply -k manifests/monitoring") }, "podmonitor", "prometheusrule")
}

// kind installs Turnout as in a cluster of kind. The kubelets do not run it, as the API server has another name here.
func (w *walk) kind() {
	w.in("")
	w.run(migrate, "kubectl delete -k .")
	w.in("turnout")
	w.expect(w.run(install, "kubectl kustomize manifests/overlays/kind"), "daemonset.apps/turnout serverside-applied")
	w.images("turnout:e2e", "turnout:e2e")
	if out, err := w.bash("kubectl delete -k manifests/overlays/kind"); err != nil {
		w.t.Fatalf("%v: %s", err, out)
	}
}

// cleanup removes from the node what Turnout leaves there.
func (w *walk) cleanup() {
	w.becomes(func() (string, error) { return w.bash(`test -z "$(kubectl -n kube-system get pods -o name)"`) })
	for _, start := range []string{"turnout cleanup --dry-run", "turnout cleanup --dry-run     # prints what would be removed"} {
		w.expect(w.run(migrate, start), "kube-proxy")
	}
	w.expect(w.run(migrate, "turnout cleanup --mode nftables"), "removed table: ip kube-proxy", "removed table: ip6 kube-proxy")
	for _, page := range []string{migrate, install, readme} {
		w.run(page, "turnout cleanup")
	}
	w.left()
}

// left checks that nothing is.
func (w *walk) left() {
	w.t.Helper()
	if out, err := w.bash("nft list tables"); err != nil || strings.Contains(out, "kube-proxy") {
		w.t.Errorf("%v, left: %s", err, out)
	}
}

// manifests runs the proxy from a folder for two seconds.
func (w *walk) manifests() {
	w.in("turnout")
	w.expect(w.run(readme, "bin/turnout render"), "table ip kube-proxy", "table ip6 kube-proxy")
	w.run(readme, "sudo bin/turnout --manifests", "sudo ", "timeout --foreground --preserve-status 2 ")
	if out, err := w.bash("nft list tables"); err != nil || strings.Count(out, "kube-proxy") != 2 {
		w.t.Errorf("%v: %s", err, out)
	}
	w.run(readme, "turnout cleanup")
	w.left()
}
