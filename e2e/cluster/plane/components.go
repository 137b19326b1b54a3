package plane

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"time"
)

// The ports of the control plane, all on its own machine. Others reach it at frontPort only.
const (
	etcdPort       = 2379
	etcdPeerPort   = 2380
	frontPort      = 6443
	apiPort        = 6444
	controllerPort = 10257
)

// patience bounds every wait for something that takes a few seconds on an idle machine.
const patience = 90 * time.Second

var loopback = netip.MustParseAddr("127.0.0.1")

func (p *Plane) startEtcd() error {
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", etcdPort), fmt.Sprintf("http://127.0.0.1:%d", etcdPeerPort)
	process, err := p.launch("etcd",
		"--data-dir="+p.Path("etcd"), "--unsafe-no-fsync",
		"--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer)
	if err != nil {
		return err
	}
	p.etcd = process
	return p.answers(process, client+"/health")
}

// StartAPIServer starts the API server, after StopAPIServer or KillAPIServer, and waits until it is ready.
func (p *Plane) StartAPIServer() error {
	args := []string{
		fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", etcdPort),
		"--advertise-address=" + p.Host.Addrs[0].String(), "--bind-address=0.0.0.0", fmt.Sprintf("--secure-port=%d", apiPort),
		"--tls-cert-file=" + p.Path("apiserver.crt"), "--tls-private-key-file=" + p.Path("apiserver.key"),
		"--client-ca-file=" + p.Path("ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + p.Path("tokens.key"), "--service-account-signing-key-file=" + p.Path("tokens.key"),
		"--service-cluster-ip-range=" + joined(p.lab.ServiceCIDRs),
		"--authorization-mode=Node,RBAC",
		// Pods are objects only: they need no tokens.
		"--disable-admission-plugins=ServiceAccount",
		"--audit-policy-file=" + p.Path("audit-policy.yaml"), "--audit-log-path=" + p.Path("audit.log"),
	}
	process, err := p.launch("kube-apiserver", append(args, p.options.APIServerArgs...)...)
	if err != nil {
		return err
	}
	p.apiserver = process
	return p.answers(process, fmt.Sprintf("https://127.0.0.1:%d/readyz", apiPort))
}

// StopAPIServer ends the API server in good order. It waits for watches to end by themselves, which they do not, as long as requests may take: a minute, or what
// APIServerArgs say.
func (p *Plane) StopAPIServer() error { return p.apiserver.Stop(patience) }

// KillAPIServer ends the API server at once, as a power failure would.
func (p *Plane) KillAPIServer() { p.apiserver.Kill() }

// controllers are those that matter to Services. Node objects of tests have no kubelet that keeps them alive, so what watches over
// nodes is left out, and so is what would delete pods of a Node that is gone.
const controllers = "*,-node-lifecycle-controller,-node-ipam-controller,-pod-garbage-collector-controller"

// KillControllers ends the controllers at once. The API server can be away for a while without that, but they, as all its clients, try
// again less and less often.
func (p *Plane) KillControllers() { p.controllers.Kill() }

// StartControllers starts the controllers, after KillControllers, and waits until they are ready.
func (p *Plane) StartControllers() error {
	kubeconfig, err := p.localKubeconfig("kube-controller-manager")
	if err != nil {
		return err
	}
	args := []string{
		"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--leader-elect=false", "--controllers=" + controllers,
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", controllerPort),
		"--service-account-private-key-file=" + p.Path("tokens.key"), "--root-ca-file=" + p.Path("ca.crt"),
		"--kube-api-qps=500", "--kube-api-burst=500",
	}
	process, err := p.launch("kube-controller-manager", append(args, p.options.ControllerArgs...)...)
	if err != nil {
		return err
	}
	p.controllers = process
	return p.answers(process, fmt.Sprintf("https://127.0.0.1:%d/healthz", controllerPort))
}

// localKubeconfig writes the kubeconfig of an administrator on the control plane's own machine, who does not depend on Front.
func (p *Plane) localKubeconfig(name string) (string, error) {
	pair, err := p.authority.client(administrator)
	if err != nil {
		return "", err
	}
	if err := pair.write(p.dir, name); err != nil {
		return "", fmt.Errorf("write client certificate of %s: %w", name, err)
	}
	return p.writeKubeconfig(name, netip.AddrPortFrom(loopback, apiPort), map[string]string{
		"client-certificate": p.Path(name + ".crt"), "client-key": p.Path(name + ".key"),
	})
}

// launch starts a program of the control plane, with a log of the same name.
func (p *Plane) launch(name string, args ...string) (*Process, error) {
	return Run(p.Host, p.Path(name+".log"), filepath.Join(p.binaries, name), args...)
}

// answers waits until a program of the control plane says that it is well, or fails with the end of its log.
func (p *Plane) answers(process *Process, url string) error {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       p.dial,
		// It is asked whether it is there; who it is does not matter on its own machine.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	var last error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		answer, err := client.Get(url)
		if err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("%s: %s", url, answer.Status)
		}
		last = err
		if !process.Running() {
			return fmt.Errorf("%s ended with %v:\n%s", process.name, process.cmd.ProcessState, process.Tail())
		}
	}
	return fmt.Errorf("%s does not answer after %v: %w\n%s", process.name, patience, last, process.Tail())
}

// dial connects from the control plane's own machine.
func (p *Plane) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return p.Host.DialContext(ctx, network, address)
}

func joined(prefixes []netip.Prefix) string {
	texts := make([]string, len(prefixes))
	for i, prefix := range prefixes {
		texts[i] = prefix.String()
	}
	return strings.Join(texts, ",")
}
