package plane

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"turnout/proxy/proxytest/lab"
)

// Options are the optional parts of a control plane.
type Options struct {
	// Binaries is the folder with etcd, kube-apiserver and kube-controller-manager; if it is empty, see Binaries.
	Binaries string
	// APIServerArgs and ControllerArgs are further flags; later ones win.
	APIServerArgs, ControllerArgs []string
}

// Plane is a running control plane.
type Plane struct {
	// Host is the machine that it runs on: 192.168.52.2 and fd52::2.
	Host *lab.Host
	// Front is how nodes reach the API server.
	Front *Front
	// Admin may do everything, and does not depend on Front. Config is the same for other clients.
	Admin  kubernetes.Interface
	Config *rest.Config

	lab       *lab.Lab
	options   Options
	binaries  string
	dir       string
	authority *authority
	frontAddr netip.AddrPort

	etcd, apiserver, controllers *Process
}

// administrator is in the group that the API server asks no roles of.
var administrator = Identity{User: "admin", Groups: []string{"system:masters"}}

// networks are the control plane's, beyond n2.
var networks = []netip.Prefix{netip.MustParsePrefix("192.168.52.0/24"), netip.MustParsePrefix("fd52::/64")}

// Start runs a control plane until the end of the test. It takes a few seconds. If the test fails, the ends of the logs of its
// programs are shown. Where the programs are missing, the test is skipped with the reason.
func Start(t testing.TB, l *lab.Lab, o Options) *Plane {
	t.Helper()
	if _, err := o.find(); err != nil {
		t.Skip(err)
	}
	p, err := New(l, o)
	if err != nil {
		t.Fatalf("start a control plane: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(p.Logs())
		}
		if err := p.Close(); err != nil {
			t.Errorf("end the control plane: %v", err)
		}
	})
	return p
}

// New runs a control plane until Close, for tests that share one. The lab must be closed after it.
func New(l *lab.Lab, o Options) (*Plane, error) {
	binaries, err := o.find()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "turnout-plane-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the control plane: %w", err)
	}
	p := &Plane{lab: l, options: o, binaries: binaries, dir: dir}
	if err := p.start(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Plane) start() error {
	var err error
	if p.Host, err = p.lab.Attach("control", networks...); err != nil {
		return err
	}
	p.frontAddr = netip.AddrPortFrom(p.Host.Addrs[0], frontPort)
	for _, step := range []func() error{
		p.writeFiles, p.connect, p.startEtcd, p.StartAPIServer, p.StartControllers, p.open,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// writeFiles makes what the API server needs before it starts.
func (p *Plane) writeFiles() (err error) {
	if p.authority, err = newAuthority("kubernetes"); err != nil {
		return err
	}
	serving, err := p.authority.server("kube-apiserver", append([]netip.Addr{loopback, p.serviceAddr()}, p.Host.Addrs...),
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost")
	if err != nil {
		return err
	}
	return errors.Join(
		replaceFile(p.Path("ca.crt"), p.authority.pem()),
		serving.write(p.dir, "apiserver"),
		writeTokenKey(p.Path("tokens.key")),
		replaceFile(p.Path("audit-policy.yaml"), []byte(auditPolicy)))
}

// serviceAddr is the ClusterIP of the Service default/kubernetes: the first of its range.
func (p *Plane) serviceAddr() netip.Addr { return p.lab.ServiceCIDRs[0].Addr().Next() }

// connect makes the client of the administrator; it connects when it is used.
func (p *Plane) connect() error {
	pair, err := p.authority.client(administrator)
	if err != nil {
		return err
	}
	p.Config = &rest.Config{
		Host: fmt.Sprintf("https://127.0.0.1:%d", apiPort),
		Dial: p.dial, QPS: -1, // no limit
		// A server that is gone without a word must not hold a test up.
		Timeout:         30 * time.Second,
		TLSClientConfig: rest.TLSClientConfig{CAData: p.authority.pem(), CertData: pair.certificate, KeyData: pair.key},
	}
	p.Admin, err = kubernetes.NewForConfig(p.Config)
	return err
}

func (p *Plane) open() (err error) {
	var at []netip.AddrPort
	for _, a := range p.Host.Addrs {
		at = append(at, netip.AddrPortFrom(a, frontPort))
	}
	p.Front, err = newFront(p.Host, netip.AddrPortFrom(loopback, apiPort), at...)
	return err
}

// Path returns the name of a file in the plane's folder, which is removed by Close.
func (p *Plane) Path(name string) string { return filepath.Join(p.dir, name) }

// Logs returns the ends of the logs of all programs of the control plane.
func (p *Plane) Logs() string {
	var text strings.Builder
	for _, process := range []*Process{p.etcd, p.apiserver, p.controllers} {
		if process != nil {
			fmt.Fprintf(&text, "=== the end of the log of %s\n%s\n", process.name, process.Tail())
		}
	}
	return text.String()
}

// Close ends everything and removes the folder. It may be called more than once.
func (p *Plane) Close() error {
	if p.Front != nil {
		p.Front.Shut()
	}
	// Nothing is worth saving, so nobody is asked to end in good order.
	for _, process := range []*Process{p.controllers, p.apiserver, p.etcd} {
		if process != nil {
			process.Kill()
		}
	}
	return os.RemoveAll(p.dir)
}
