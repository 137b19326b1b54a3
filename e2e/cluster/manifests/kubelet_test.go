package manifests

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"turnout/e2e/cluster/plane"
	"turnout/proxy/proxytest/lab"
)

// kubelets are those of both nodes, and the scheduler, as far as DaemonSets and kubectl need them: pods are bound and told to be ready, those that
// are told to end do, and logs can be read. Pods with the image that the pages name run the program under test, and are ready when their probe
// says so; what others would do is not done.
type kubelets struct {
	t     *testing.T
	plane *plane.Plane
	lab   *lab.Lab

	mu   sync.Mutex // guards pods
	pods map[string]*running
}

// running is a container of a pod.
type running struct {
	cmd *exec.Cmd
	// logs are the files of the container's runs, the present one last.
	logs  []string
	ended chan struct{} // closed when the process is gone
	// failed is when it could not be started.
	failed time.Time
}

// startKubelets lets them work until the end of the test.
func startKubelets(t *testing.T, p *plane.Plane, l *lab.Lab) *kubelets {
	t.Helper()
	k := &kubelets{t: t, plane: p, lab: l, pods: map[string]*running{}}
	for _, node := range []string{"n1", "n2"} {
		k.serve(l.Host(node))
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			k.look(ctx)
			time.Sleep(50 * time.Millisecond)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		for name, r := range k.pods {
			if t.Failed() && len(r.logs) > 0 {
				t.Logf("log of pod %s:\n%s", name, contents(t, r.logs[len(r.logs)-1]))
			}
			r.end(syscall.SIGKILL)
		}
	})
	return k
}

// look does what there is to do for each pod. What does not succeed is tried again.
func (k *kubelets) look(ctx context.Context) {
	pods := k.plane.Admin.CoreV1().Pods("kube-system")
	list, err := pods.List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	for _, pod := range list.Items {
		switch {
		case pod.DeletionTimestamp != nil:
			k.end(pod.Name)
			_ = pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
		case pod.Spec.NodeName == "":
			binding := &v1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod.Name}, Target: v1.ObjectReference{Kind: "Node", Name: nodeOf(&pod)}}
			_ = pods.Bind(ctx, binding, metav1.CreateOptions{})
		case pod.Spec.Containers[0].Image == image:
			k.keep(ctx, &pod)
		default:
			k.report(ctx, &pod, v1.ConditionTrue)
		}
	}
}

// nodeOf is the node that a DaemonSet made a pod for.
func nodeOf(pod *v1.Pod) string {
	return pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
}

// keep has the container of a pod run, and reports whether it is ready.
func (k *kubelets) keep(ctx context.Context, pod *v1.Pod) {
	host := k.lab.Host(pod.Spec.NodeName)
	k.mu.Lock()
	r := k.pods[pod.Name]
	if r == nil {
		r = &running{}
		k.pods[pod.Name] = r
	}
	k.mu.Unlock()
	if !r.runs() {
		if time.Since(r.failed) < time.Second {
			return
		}
		if err := k.start(r, &machine{k.t, k.plane, host}, pod); err != nil {
			k.t.Logf("pod %s: %v", pod.Name, err)
			r.failed = time.Now()
			return
		}
	}
	status := v1.ConditionFalse
	if p := pod.Spec.Containers[0].ReadinessProbe; p == nil || probe(host, p.HTTPGet.Path) == nil {
		status = v1.ConditionTrue
	}
	k.report(ctx, pod, status)
}

// report writes a pod's status if it is another one.
func (k *kubelets) report(ctx context.Context, pod *v1.Pod, ready v1.ConditionStatus) {
	if slices.ContainsFunc(pod.Status.Conditions, func(c v1.PodCondition) bool { return c.Type == v1.PodReady && c.Status == ready }) {
		return
	}
	text, err := json.Marshal(map[string]any{"status": v1.PodStatus{
		Phase: v1.PodRunning, Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: ready}}, // what is merged replaces the list
	}})
	if err == nil {
		_, _ = k.plane.Admin.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, text, metav1.PatchOptions{}, "status")
	}
}

// start runs the init containers of a pod to their end, and then its container.
func (k *kubelets) start(r *running, m *machine, pod *v1.Pod) error {
	log, err := os.CreateTemp(k.t.TempDir(), "log")
	if err != nil {
		return err
	}
	defer log.Close()
	for _, c := range append(slices.Clone(pod.Spec.InitContainers), pod.Spec.Containers[0]) {
		cmd, err := m.command(pod, c)
		if err != nil {
			return err
		}
		cmd.Stdout, cmd.Stderr = log, log
		if err := m.host.Start(cmd); err != nil {
			return err
		}
		r.cmd = cmd
		if c.Name == pod.Spec.Containers[0].Name {
			break
		}
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("init container %s: %w\n%s", c.Name, err, contents(k.t, log.Name()))
		}
	}
	k.mu.Lock()
	r.logs = append(r.logs, log.Name())
	k.mu.Unlock()
	r.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait() // it ends by a signal
		close(ended)
	}(r.cmd, r.ended)
	return nil
}

func (r *running) runs() bool {
	if r.ended == nil {
		return false
	}
	select {
	case <-r.ended:
		return false
	default:
		return true
	}
}

func (r *running) end(s syscall.Signal) {
	if r.runs() {
		_ = r.cmd.Process.Signal(s)
		<-r.ended
	}
}

// end ends the container of a pod that goes.
func (k *kubelets) end(name string) {
	k.mu.Lock()
	r := k.pods[name]
	k.mu.Unlock()
	if r != nil {
		r.end(syscall.SIGTERM)
	}
}

// kill ends the container of a pod as a crash does; it is started again.
func (k *kubelets) kill(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	_ = k.pods[name].cmd.Process.Kill()
}

// serve serves what kubectl logs asks a node's kubelet for.
func (k *kubelets) serve(host *lab.Host) {
	k.t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		file, err := k.log(r.PathValue("pod"), r.URL.Query().Get("previous") == "true")
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		http.ServeFile(w, r, file)
	})
	server := httptest.NewUnstartedServer(mux)
	if err := host.Do(func() (err error) {
		_ = server.Listener.Close() // the one that it came with
		server.Listener, err = net.Listen("tcp", ":10250")
		return err
	}); err != nil {
		k.t.Fatal(err)
	}
	server.StartTLS()
	k.t.Cleanup(server.Close)
}

// log is the file of a container's present log, or of that before.
func (k *kubelets) log(pod string, previous bool) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var logs []string
	if r := k.pods[pod]; r != nil {
		logs = r.logs
	}
	if previous && len(logs) > 0 {
		logs = logs[:len(logs)-1]
	}
	if len(logs) == 0 {
		return "", fmt.Errorf("container of pod %s not found", pod)
	}
	return logs[len(logs)-1], nil
}
