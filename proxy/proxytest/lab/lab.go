package lab

import (
	"errors"
	"fmt"

	"turnout/proxy/proxytest"
)

// Lab is a running cluster of namespaces.
type Lab struct {
	*proxytest.Cluster
	hosts []*Host // in the order of Cluster.Hosts
}

// New builds a lab; it takes some tens of milliseconds. Nothing outside of the new namespaces is changed. It needs
// CAP_SYS_ADMIN and CAP_NET_ADMIN, which a user namespace may give (proxytest.Reexec).
func New() (*Lab, error) {
	if err := proxytest.Privileged(); err != nil {
		return nil, fmt.Errorf("cannot make network namespaces: %w", err)
	}
	l := &Lab{Cluster: proxytest.Addressing()}
	if err := l.build(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// ForTest builds a lab that is closed at the end of the test, or skips the test with a reason if the process may not.
func ForTest(t proxytest.T) *Lab {
	t.Helper()
	if err := proxytest.Privileged(); err != nil {
		t.Skipf("needs network namespaces: %v", err)
	}
	l, err := New()
	if err != nil {
		t.Fatalf("build the lab: %v", err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Fatalf("close the lab: %v", err)
		}
	})
	return l
}

// Host returns a host by its name, such as "n1", "pod-4" or "client". It panics if there is none.
func (l *Lab) Host(name string) *Host {
	for _, h := range l.hosts {
		if h.Name == name {
			return h
		}
	}
	panic("lab: no host " + name)
}

// Hosts returns all hosts, in the order of Cluster.Hosts.
func (l *Lab) Hosts() []*Host { return l.hosts }

// Node returns n1, where the proxy under test runs.
func (l *Lab) Node() *Host { return l.Host(l.Cluster.Node) }

// Client returns the outside client.
func (l *Lab) Client() *Host { return l.Host("client") }

// Close stops all servers, kills processes that Start started and are still there, and removes the namespaces. It may be
// called more than once.
func (l *Lab) Close() error {
	var errs []error
	for _, h := range l.hosts {
		errs = append(errs, h.close())
	}
	return errors.Join(errs...)
}

// build makes the namespaces, then the links between them.
func (l *Lab) build() error {
	for _, h := range l.Cluster.Hosts {
		host, err := newHost(h)
		if err != nil {
			return fmt.Errorf("make namespace for %s: %w", h.Name, err)
		}
		l.hosts = append(l.hosts, host)
	}
	if err := l.wire(); err != nil {
		return err
	}
	return l.settle()
}
