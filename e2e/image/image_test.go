package image

import (
	"bytes"
	"errors"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"turnout/cmd/turnout/demo"
	"turnout/examples"
	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// patience bounds every wait for a container.
const patience = 60 * time.Second

// TestDemo has the container carry the demo's traffic, with CAP_NET_ADMIN alone and a read-only file system: every check of the demo
// must hold, also when the proxy is killed and started again.
func TestDemo(t *testing.T) {
	program, shared := container(t, archive(t, *archiveFlag), netAdmin)
	t.Setenv("TMPDIR", shared) // the demo's manifests
	var out bytes.Buffer
	if err := demo.Run(t.Context(), demo.Options{Executable: program, Out: &out}); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	t.Log(lastLine(out.String()))
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// configuration wants settings of connection tracking that the kernel does not have by itself.
const configuration = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: 10.244.0.0/16,fd00:10:244::/48
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 3h7m, tcpCloseWaitTimeout: 7m}
`

const (
	untuned  = "A setting of connection tracking stays as it is"
	initDone = "Everything that needs privileges is done"
	timeout  = "net/netfilter/nf_conntrack_tcp_timeout_established"
)

// TestInitOnly splits the start as the DaemonSet does: a container that may write to /proc/sys does what needs that and ends, and the
// other one finds nothing left to do. Without the first, the second says what it could not do, and works.
func TestInitOnly(t *testing.T) {
	program, shared := container(t, archive(t, *archiveFlag), netAdmin)
	l := lab.ForTest(t)
	if err := l.ServeEndpoints(); err != nil {
		t.Fatal(err)
	}
	args := arguments(t, shared, configuration)

	if log := serve(t, l, program, args); !strings.Contains(log, untuned) {
		t.Errorf("read-only /proc/sys, and no word of it:\n%s", log)
	}
	// What privileged gives to a container, as far as it matters here: a writable /proc/sys.
	t.Setenv("IMAGE_OPTIONS", netAdmin+" --security-opt systempaths=unconfined")
	if log := initOnly(t, l, program, args); !strings.Contains(log, initDone) {
		t.Errorf("--init-only does not say that it is done:\n%s", log)
	}
	if got := sysctl(t, l, timeout); got != "11220" {
		t.Errorf("%s is %s after --init-only, want 11220", timeout, got)
	}
	t.Setenv("IMAGE_OPTIONS", netAdmin)
	if log := serve(t, l, program, args); strings.Contains(log, untuned) {
		t.Errorf("after --init-only there is still something to do:\n%s", log)
	}
}

// TestNoCapability checks that a container without CAP_NET_ADMIN says what it lacks.
func TestNoCapability(t *testing.T) {
	program, _ := container(t, archive(t, *archiveFlag), "")
	l := lab.ForTest(t)
	cmd, log := command(program, "--manifests", "/", "--hostname-override", "n1", "--cluster-cidr", "10.244.0.0/16")
	if err := l.Node().Start(cmd); err != nil {
		t.Fatal(err)
	}
	if code := wait(t, cmd, log); code != 1 || !strings.Contains(log.String(), "CAP_NET_ADMIN") {
		t.Errorf("exit status %d, want 1 and a word of CAP_NET_ADMIN:\n%s", code, log)
	}
}

// TestModeIptables serves in mode iptables from the image of the target iptables, with the variant that uses nftables.
func TestModeIptables(t *testing.T) {
	program, shared := container(t, archive(t, *iptablesFlag), netAdmin)
	l := lab.ForTest(t)
	if err := l.ServeEndpoints(); err != nil {
		t.Fatal(err)
	}
	args := arguments(t, shared, strings.Replace(configuration, "mode: nftables", "mode: iptables", 1))
	log := serve(t, l, program, args)
	if !strings.Contains(log, `mode="iptables"`) {
		t.Errorf("not in mode iptables:\n%s", log)
	}
}

// TestIptables checks that the image of the target iptables has both variants of Debian's iptables.
func TestIptables(t *testing.T) {
	program, _ := container(t, archive(t, *iptablesFlag), netAdmin+" --entrypoint /usr/bin/env")
	l := lab.ForTest(t)
	cmd, log := command(program, "sh", "-c", "iptables-nft --version; ip6tables-nft-restore --version; iptables-legacy --version; /usr/local/bin/kube-proxy --version")
	if err := l.Node().Start(cmd); err != nil {
		t.Fatal(err)
	}
	code := wait(t, cmd, log)
	for _, want := range []string{"(nf_tables)", "(legacy)", "Kubernetes v"} {
		if code != 0 || !strings.Contains(log.String(), want) {
			t.Errorf("exit status %d; no word of %s in\n%s", code, want, log)
		}
	}
}

// arguments are those of a proxy that serves the examples with a configuration.
func arguments(t *testing.T, shared, configuration string) []string {
	t.Helper()
	if err := os.CopyFS(filepath.Join(shared, "manifests"), examples.Files); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(shared, "config.conf")
	if err := os.WriteFile(config, []byte(configuration), 0o644); err != nil {
		t.Fatal(err)
	}
	return []string{"--config", config, "--manifests", filepath.Join(shared, "manifests"), "--hostname-override", "n1"}
}

// serve runs the proxy until it is ready and a pod got through to a Service, ends it, and returns its log.
func serve(t *testing.T, l *lab.Lab, program string, args []string) string {
	t.Helper()
	cmd, log := command(program, args...)
	if err := l.Node().Start(cmd); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); !ready(l); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("not ready after %v", patience)
			break
		}
	}
	for address := range strings.FieldsSeq("10.96.0.10:80 [fd00:10:96::10]:80") {
		if o := l.Host("pod-1").Dial(proxy.TCP, netip.MustParseAddrPort(address), lab.DialOptions{Timeout: patience}); o.Result != lab.Connected {
			t.Errorf("pod-1 to %s: %v", address, o)
		}
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Error(err)
	}
	if code := wait(t, cmd, log); code != 0 {
		t.Errorf("exit status %d", code)
	}
	return log.String()
}

func initOnly(t *testing.T, l *lab.Lab, program string, args []string) string {
	t.Helper()
	cmd, log := command(program, append(args, "--init-only")...)
	if err := l.Node().Start(cmd); err != nil {
		t.Fatal(err)
	}
	if code := wait(t, cmd, log); code != 0 {
		t.Errorf("--init-only: exit status %d", code)
	}
	return log.String()
}

func command(program string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd, log := exec.Command(program, args...), new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.WaitDelay = time.Second
	return cmd, log
}

// wait returns the exit status of a command that is about to end; one that is not is killed.
func wait(t *testing.T, cmd *exec.Cmd, log *bytes.Buffer) int {
	t.Helper()
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		t.Fatalf("%v\n%s", err, log)
	}
	return cmd.ProcessState.ExitCode()
}

func ready(l *lab.Lab) bool {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: l.Node().DialContext}
	client := http.Client{Timeout: time.Second, Transport: transport}
	answer, err := client.Get("http://127.0.0.1:10256/readyz")
	if err != nil {
		return false
	}
	answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// sysctl reads a setting in the node's namespace.
func sysctl(t *testing.T, l *lab.Lab, name string) string {
	t.Helper()
	var raw []byte
	err := l.Node().Do(func() (err error) {
		raw, err = os.ReadFile("/proc/sys/" + name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}
