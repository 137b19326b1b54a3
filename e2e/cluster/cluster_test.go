package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"testing"
	"time"

	"turnout/e2e/cluster/plane"
	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// patience bounds every wait for something that takes a second or two on an idle machine.
const patience = 90 * time.Second

// deadline bounds everything that is asked of the API server.
const deadline = 14 * time.Minute

// cluster is a lab with a control plane: Node objects of n1 and n2, servers on endpointPort of all hosts but the client, and the proxy
// under test on n1.
type cluster struct {
	*lab.Lab
	plane *plane.Plane
	ctx   context.Context

	// The last proxy that was started, who it is to the API server, and its files.
	proxy              *plane.Process
	user               string
	kubeconfig, config string
	// mayBeForbidden tells which requests of the proxy a test lets be refused; none if it is nil.
	mayBeForbidden func(plane.Request) bool

	cancel context.CancelFunc
}

// endpointPort is where pods serve, by every protocol.
const endpointPort = 8080

// moreServiceCIDRs are those that TestServiceCIDR adds; at first their addresses are nobody's.
var moreServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.55.0.0/24"), netip.MustParsePrefix("fd00:10:55::/112")}

// own returns a cluster for one test, which runs at the same time as others. At its end, the proxy is judged and everything is removed.
func own(t *testing.T) *cluster {
	t.Helper()
	t.Parallel()
	c, err := newCluster()
	if errors.Is(err, plane.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.judge(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(c.plane.Logs())
			if c.proxy != nil {
				t.Logf("log of the proxy:\n%s", c.proxy.Tail())
			}
		}
		if err := c.close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// ownScene is a namespace in a cluster for one test, whose proxy runs.
func ownScene(t *testing.T) *scene {
	t.Helper()
	c := own(t)
	_, err := c.start(plane.NodeProxy)
	must(t, err)
	return c.scene(t)
}

// newCluster returns a cluster that has no proxy yet.
func newCluster() (*cluster, error) {
	l, err := lab.New()
	if err != nil {
		return nil, err
	}
	p, err := plane.New(l, plane.Options{Binaries: *binariesFlag})
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	c := &cluster{Lab: l, plane: p}
	c.ctx, c.cancel = context.WithTimeout(context.Background(), deadline)
	if err := errors.Join(p.RegisterNodes(c.ctx), c.serve(), c.strays(), l.Symmetric()); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *cluster) close() error {
	c.cancel()
	return errors.Join(c.plane.Close(), c.Lab.Close())
}

func (c *cluster) serve() error {
	for _, h := range c.Cluster.Hosts {
		for _, p := range []proxy.Protocol{proxy.TCP, proxy.UDP, proxy.SCTP} {
			if h.Node == "" {
				continue
			}
			if _, err := c.Host(h.Name).Serve(p, endpointPort); err != nil {
				return err
			}
		}
	}
	return nil
}

// strays has the outside client answer what the proxy lets pass, also to addresses that become a Service's only later.
func (c *cluster) strays() error {
	before := c.ServiceCIDRs
	defer func() { c.ServiceCIDRs = before }()
	c.ServiceCIDRs = append(slices.Clone(before), moreServiceCIDRs...)
	return c.CatchStrays(80, 81)
}

// start runs the proxy as on a node whose kubeconfig has a client certificate, and waits until the kernel follows.
func (c *cluster) start(id plane.Identity) (*plane.Process, error) {
	kubeconfig, err := c.plane.Kubeconfig("proxy", id)
	if err != nil {
		return nil, err
	}
	return c.startWith(kubeconfig, id.User)
}

// startWith is start with another kubeconfig file, for a user that the API server knows by that name.
func (c *cluster) startWith(kubeconfig, user string) (*plane.Process, error) {
	p, err := c.launch(kubeconfig, user)
	if err != nil {
		return nil, err
	}
	return p, c.ready(p)
}

// launch is startWith without the wait.
func (c *cluster) launch(kubeconfig, user string) (*plane.Process, error) {
	path, err := binary()
	if err != nil {
		return nil, err
	}
	// A configuration file that changes ends the proxy, so it is written only once.
	if c.kubeconfig != kubeconfig {
		if c.config, err = c.plane.ProxyConfig("config.conf", kubeconfig, nil); err != nil {
			return nil, err
		}
		c.kubeconfig = kubeconfig
	}
	c.proxy, err = plane.Run(c.Node(), c.plane.Path("proxy.log"), path, "--config="+c.config, "--hostname-override="+c.Cluster.Node, "-v=2")
	c.user = user
	return c.proxy, err
}

// ready waits until the rules of both families are programmed.
func (c *cluster) ready(p *plane.Process) error {
	return c.await(p, "the proxy is not ready", func() string {
		status, body, err := c.get(healthServer, "/readyz")
		if err != nil {
			return err.Error()
		}
		if status != http.StatusOK {
			return fmt.Sprintf("/readyz: %d %s", status, body)
		}
		return ""
	})
}

// await waits until nothing is missing, or gives up with what is.
func (c *cluster) await(p *plane.Process, failure string, missing func() string) error {
	var why string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if why = missing(); why == "" {
			return nil
		}
		if !p.Running() {
			return fmt.Errorf("%s, it ended with exit code %d:\n%s", failure, p.ExitCode(), p.Tail())
		}
	}
	return fmt.Errorf("%s after %v: %s\n%s", failure, patience, why, p.Tail())
}

// judge stops the proxy, if it runs, and says what was wrong with it: how it ended, and whether it asked for what it may not have.
func (c *cluster) judge() error {
	if c.proxy == nil {
		return nil
	}
	var errs []error
	if c.proxy.Running() {
		errs = append(errs, c.proxy.Stop(patience))
	}
	requests, err := c.plane.Requests(c.user)
	errs = append(errs, err)
	for _, r := range requests {
		if r.Forbidden() && (c.mayBeForbidden == nil || !c.mayBeForbidden(r)) {
			errs = append(errs, fmt.Errorf("the proxy asked for what it has no right to: %v", r))
		}
	}
	return errors.Join(errs...)
}

// Addresses of the proxy's servers, as seen from the node.
const (
	metricsServer = "127.0.0.1:10249"
	healthServer  = "127.0.0.1:10256"
)

// get asks a server of the proxy from the node.
func (c *cluster) get(address, path string) (status int, body string, err error) {
	return fetch(c.Node(), "http://"+address+path)
}

// fetch makes an HTTP request from a host of the lab.
func fetch(from *lab.Host, url string) (status int, body string, err error) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: from.DialContext}}
	answer, err := client.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(text), err
}

// health waits until a page of the health server answers with a status.
func (c *cluster) health(t *testing.T, page string, want int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s answers with %d", page, want), func() string {
		status, body, err := c.get(healthServer, page)
		if err != nil {
			return err.Error()
		}
		if status != want {
			return fmt.Sprintf("status %d: %s", status, body)
		}
		return ""
	})
}

// eventually waits until nothing is missing.
func eventually(t *testing.T, what string, missing func() string) {
	t.Helper()
	var why string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if why = missing(); why == "" {
			return
		}
	}
	t.Fatalf("after %v it is not so that %s: %s", patience, what, why)
}

// must ends the test on an error.
func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
