package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"turnout/proxy/proxytest/lab"
	"turnout/proxy/proxytest/objects"
)

// patience bounds every wait for something that takes milliseconds on an idle machine; TestMain makes it longer on a slow one.
var patience = 60 * time.Second

// buildDir is where the binary is built; TestMain removes it.
var buildDir string

// binary builds the program under test once.
var binary = sync.OnceValues(func() (string, error) {
	if *binaryFlag != "" {
		return filepath.Abs(*binaryFlag)
	}
	path := filepath.Join(buildDir, "turnout")
	args := append([]string{"build", "-buildvcs=false", "-ldflags", "-X k8s.io/component-base/version.gitVersion=v0.0.0-e2e", "-o", path}, buildFlags...)
	if out, err := exec.Command("go", append(args, "turnout/cmd/turnout")...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the binary: %w\n%s", err, out)
	}
	return path, nil
})

// cluster is a lab, and the objects of a Kubernetes cluster in it as manifests in a folder.
type cluster struct {
	*lab.Lab
	t   *testing.T
	dir string
	// objects are those in the folder, by kind, namespace and name.
	objects    map[string]metav1.Object
	generation int
}

// newCluster builds a lab whose folder has the own Node and the ServiceCIDR, or skips the test if namespaces are not permitted.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{Lab: lab.ForTest(t), t: t, dir: t.TempDir(), objects: map[string]metav1.Object{}}
	cidr := &networking.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}}
	for _, p := range c.ServiceCIDRs {
		cidr.Spec.CIDRs = append(cidr.Spec.CIDRs, p.String())
	}
	c.set(objects.Node(c.Cluster), cidr)
	return c
}

// set adds objects to the folder or replaces those of the same name, all in one step. It does not wait: see process.follow.
// Objects must not be modified afterwards.
func (c *cluster) set(list ...metav1.Object) {
	c.t.Helper()
	c.change(list, nil)
}

// remove takes objects out of the folder, in one step.
func (c *cluster) remove(list ...metav1.Object) {
	c.t.Helper()
	c.change(nil, list)
}

// change sets and removes objects in one step.
func (c *cluster) change(set, remove []metav1.Object) {
	c.t.Helper()
	for _, o := range set {
		c.objects[objectKey(o)] = o
	}
	for _, o := range remove {
		delete(c.objects, objectKey(o))
	}
	c.generation++
	c.write()
}

func objectKey(o metav1.Object) string {
	return fmt.Sprintf("%T %s/%s", o, o.GetNamespace(), o.GetName())
}

// manifests is the file with all objects of a test.
const manifests = "cluster.json"

// write replaces the one file of the folder, as a reader sees it at once. With the objects it writes the mark of this generation:
// a Service that is delivered as the last of those that are set, while that of the generation before is the last deleted.
func (c *cluster) write() {
	c.t.Helper()
	var text bytes.Buffer
	keys := make([]string, 0, len(c.objects))
	for key := range c.objects {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	list := []metav1.Object{c.mark()}
	for _, key := range keys {
		list = append(list, c.objects[key])
	}
	for _, o := range list {
		raw, err := json.Marshal(typed(o))
		if err != nil {
			c.t.Fatalf("write manifests: %v", err)
		}
		text.Write(raw)
		text.WriteByte('\n')
	}
	hidden, path := filepath.Join(c.dir, ".new"), filepath.Join(c.dir, manifests)
	if err := errors.Join(os.WriteFile(hidden, text.Bytes(), 0o644), os.Rename(hidden, path)); err != nil {
		c.t.Fatalf("write manifests: %v", err)
	}
}

// typed fills in what manifests must say and objects made by tests need not.
func typed(o metav1.Object) runtime.Object {
	object := o.(runtime.Object).DeepCopyObject()
	var kind schema.GroupVersionKind
	switch o.(type) {
	case *v1.Node:
		kind = v1.SchemeGroupVersion.WithKind("Node")
	case *v1.Service:
		kind = v1.SchemeGroupVersion.WithKind("Service")
	case *discovery.EndpointSlice:
		kind = discovery.SchemeGroupVersion.WithKind("EndpointSlice")
	case *networking.ServiceCIDR:
		kind = networking.SchemeGroupVersion.WithKind("ServiceCIDR")
	default:
		panic(fmt.Sprintf("no manifest for %T", o))
	}
	object.GetObjectKind().SetGroupVersionKind(kind)
	return object
}

// mark is the Service that shows which generation of the folder has been delivered.
func (c *cluster) mark() *v1.Service {
	ips := []string{"10.96.255.250", "fd00:10:96::fffa"}
	if c.generation%2 == 1 {
		ips = []string{"10.96.255.251", "fd00:10:96::fffb"}
	}
	s := &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "zzz", Name: c.markName()}}
	s.Spec.Type, s.Spec.ClusterIP, s.Spec.ClusterIPs = v1.ServiceTypeClusterIP, ips[0], ips
	s.Spec.IPFamilies = []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}
	s.Spec.Ports = []v1.ServicePort{{Port: 1, Protocol: v1.ProtocolTCP}}
	return s
}

func (c *cluster) markName() string { return fmt.Sprintf("generation-%d", c.generation) }

// process is a running proxy.
type process struct {
	*cluster
	cmd   *exec.Cmd
	log   *logBuffer
	ended chan struct{} // closed when the process is gone; cmd.ProcessState is set then
}

// usualArgs are the flags of every proxy in the lab; later ones win.
func (c *cluster) usualArgs() []string {
	var cidrs []string
	for _, p := range c.ClusterCIDRs {
		cidrs = append(cidrs, p.String())
	}
	return []string{"--manifests", c.dir, "--proxy-mode", proxyMode(), "--hostname-override", c.Cluster.Node, "--cluster-cidr", strings.Join(cidrs, ","),
		"--conntrack-max-per-core", "0", "--conntrack-min", "0", "-v=2"}
}

// start runs the proxy on n1 with further flags and waits until the kernel follows the folder. At the end of the test it is told
// to stop and must do so with exit status 0. If the test failed, its log is shown.
func (c *cluster) start(args ...string) *process {
	c.t.Helper()
	p := c.launch(args...)
	p.follow()
	return p
}

// launch is start without the wait.
func (c *cluster) launch(args ...string) *process {
	c.t.Helper()
	path, err := binary()
	if err != nil {
		c.t.Fatal(err)
	}
	return c.run(exec.Command(path, append(c.usualArgs(), c.forMode(args)...)...))
}

// run starts a command that is the proxy or runs it.
func (c *cluster) run(cmd *exec.Cmd) *process {
	c.t.Helper()
	p := &process{cluster: c, cmd: cmd, log: &logBuffer{}, ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := c.Node().Start(p.cmd); err != nil {
		c.t.Fatalf("start %s: %v", p.cmd.Path, err)
	}
	go func() {
		_ = p.cmd.Wait() // ProcessState has all of it
		close(p.ended)
	}()
	c.t.Cleanup(p.finish)
	return p
}

// finish ends the process if it still runs, and judges how it ran.
func (p *process) finish() {
	if p.running() {
		p.stop()
	}
	if strings.Contains(p.log.String(), "DATA RACE") {
		p.t.Error("the proxy has a data race")
	}
	if p.t.Failed() {
		p.t.Logf("log of the proxy, process %d:\n%s", p.cmd.Process.Pid, p.log.tail())
	}
}

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// stop tells the proxy to end and waits until it did; anything but exit status 0 fails the test.
func (p *process) stop() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(unix.SIGTERM) // one that is gone already shows by its status
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Errorf("the proxy did not end within %v of SIGTERM", patience)
		p.kill()
		return
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		p.t.Errorf("the proxy ended with %v", p.cmd.ProcessState)
	}
}

// kill ends the proxy without giving it a chance to do anything.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// follow waits until the kernel follows what is in the folder now, in both families.
func (p *process) follow() {
	p.t.Helper()
	var why string
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if why = p.behind(); why == "" {
			break
		}
		if !p.running() {
			p.t.Fatalf("the proxy ended with %v", p.cmd.ProcessState)
		}
		if time.Now().After(end) {
			p.t.Fatalf("after %v the kernel does not follow the manifests: %s", patience, why)
		}
	}
	if strings.Contains(p.log.String(), `problem="`+manifests) {
		p.t.Errorf("the proxy has problems with the manifests of the test")
	}
}

// behind says what shows that the kernel does not follow the folder yet. That it does is certain: the States have the mark, and a
// sync that was asked for before they were published, or later, has ended.
func (p *process) behind() string {
	state, err := p.get("127.0.0.1:10249", "/debug/state")
	if err != nil {
		return err.Error()
	}
	if n := strings.Count(state.body, "  zzz/"+p.markName()+"/TCP"); n != 2 || strings.Count(state.body, "  zzz/") != n {
		return fmt.Sprintf("%d of 2 families have just the mark %s", n, p.markName())
	}
	metrics, err := p.metrics()
	if err != nil {
		return err.Error()
	}
	for _, family := range []string{"IPv4", "IPv6"} {
		label := fmt.Sprintf("{ip_family=%q}", family)
		queued, synced := metrics["kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds"+label], metrics["kubeproxy_sync_proxy_rules_last_timestamp_seconds"+label]
		if synced == 0 || synced < queued {
			return fmt.Sprintf("%s was last synced at %f, last queued at %f", family, synced, queued)
		}
	}
	return ""
}

// logged waits until the log has a line with all of the texts: what is told of an event is written before or after that shows otherwise, and comes here
// through a pipe.
func (p *process) logged(texts ...string) {
	p.t.Helper()
	p.loggedSince(0, texts...)
}

// loggedSince is logged for what was written after so many bytes.
func (p *process) loggedSince(from int, texts ...string) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("in the log: %q", texts), func() bool { return p.countLog(from, texts...) > 0 })
}

// countLog counts the lines after so many bytes that have all of the texts.
func (p *process) countLog(from int, texts ...string) (n int) {
	for line := range strings.Lines(p.log.String()[from:]) {
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
			n++
		}
	}
	return n
}

// warned waits for a warning with a text.
func (p *process) warned(text string) {
	p.t.Helper()
	p.logged("warning=", text)
}

// logBuffer keeps what a process writes.
type logBuffer struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

// Write implements io.Writer.
func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// tail is as much of the end as a person may want to read.
func (b *logBuffer) tail() string {
	const most = 16 << 10
	s := b.String()
	if len(s) > most {
		s = "…" + s[len(s)-most:]
	}
	return s
}
