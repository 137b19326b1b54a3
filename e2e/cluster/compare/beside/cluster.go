package beside

import (
	"context"
	"errors"
	"fmt"
	"os"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	proxyconfig "k8s.io/kube-proxy/config/v1alpha1"

	"turnout/e2e/cluster/plane"
	"turnout/proxy/proxytest/lab"
	"turnout/proxy/proxytest/objects"
)

// Namespaces are those that exist for objects besides "default".
var Namespaces = []string{"ns-0", "ns-1", "ns-2"}

// Cluster is a control plane and what is written to it. Its methods are for one goroutine at a time.
type Cluster struct {
	*plane.Plane
	hub        *lab.Lab // where the control plane runs
	kubeconfig string
	dir        string // for files of sides
	set        map[string]metav1.Object
	generation int
	started    int
	sides      []*Side
}

// New starts a control plane with the Node objects n1 and n2, in the two zones of package objects. Binaries is the folder of its programs, "" for the usual one. It needs
// root, as lab.New does.
func New(binaries string) (*Cluster, error) {
	hub, err := lab.New()
	if err != nil {
		return nil, err
	}
	c := &Cluster{hub: hub, set: map[string]metav1.Object{}}
	if err := c.start(binaries); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) start(binaries string) (err error) {
	if c.dir, err = os.MkdirTemp("", "turnout-beside-"); err != nil {
		return fmt.Errorf("make a folder for sides: %w", err)
	}
	if c.Plane, err = plane.New(c.hub, plane.Options{Binaries: binaries}); err != nil {
		return err
	}
	ctx := context.Background()
	for i, name := range []string{"n1", "n2"} {
		if err := c.RegisterNode(ctx, name, objects.Zones[i]); err != nil {
			return err
		}
	}
	for _, name := range append([]string{markNamespace}, Namespaces...) {
		ns := &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := c.Admin.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("make namespace %s: %w", name, err)
		}
	}
	c.kubeconfig, err = c.Plane.Kubeconfig("proxy", plane.NodeProxy)
	return err
}

// Config writes a configuration file for all sides and returns its path: as kubeadm writes it, in mode nftables, with syncs that follow
// each other quickly. Edit, if it is not nil, may change anything.
func (c *Cluster) Config(name string, edit func(*proxyconfig.KubeProxyConfiguration)) (path string, err error) {
	return c.ProxyConfig(name, c.kubeconfig, func(config *proxyconfig.KubeProxyConfiguration) {
		config.NFTables.MinSyncPeriod.Duration = minSyncPeriod
		config.IPTables.MinSyncPeriod.Duration = minSyncPeriod
		if edit != nil {
			edit(config)
		}
	})
}

// KubeconfigPath returns the file by which proxies reach the control plane.
func (c *Cluster) KubeconfigPath() string { return c.kubeconfig }

// Close ends all sides and the control plane, and removes every file. It may be called more than once.
func (c *Cluster) Close() error {
	var errs []error
	for _, s := range c.sides {
		errs = append(errs, s.Close())
	}
	if c.Plane != nil {
		errs = append(errs, c.Plane.Close())
	}
	return errors.Join(append(errs, c.hub.Close(), os.RemoveAll(c.dir))...)
}
