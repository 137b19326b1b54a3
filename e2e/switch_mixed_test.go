package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
	"turnout/proxy/proxytest/objects"
)

// A mixedNode is a node of a cluster whose proxies run in different modes.
type mixedNode struct {
	*lab.Host
	mode     string
	endpoint string // the host that serves on this node
}

// TestMixedModes has three nodes whose proxies run in different modes. From outside, and from each node, the NodePorts of each node lead where the policy
// says, with the source that it says, and clients with affinity stay where they are.
func TestMixedModes(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.mixedNodes()
	endpoints := []pod{on("pod-1"), on("pod-4"), on("n3", func(e *discovery.Endpoint) { e.NodeName = new("n3") })}
	c.serve("pod-1", "pod-4", "n3")
	all, own, stays := newService(1, "all"), newService(2, "own", externalLocal, healthCheck(31999)), newService(3, "stays", sticky(3600))
	objects := slices.Concat(c.with(all, endpoints...), c.with(own, endpoints...), c.with(stays, endpoints...))
	for _, n := range nodes {
		objects = append(objects, c.nodeObject(n.Host))
	}
	c.set(objects...)
	for _, n := range nodes {
		c.startOn(n)
	}
	for _, n := range nodes {
		for _, f := range proxy.Families {
			at := func(s *v1.Service) netip.AddrPort {
				return netip.AddrPortFrom(n.Addr(f), c.address(s, proxy.NodePort, f, proxy.TCP).Port())
			}
			for _, from := range append([]*lab.Host{c.Client()}, nodes[0].Host, nodes[1].Host, nodes[2].Host) {
				t.Run(fmt.Sprintf("%s to %s in mode %s, %s", from.Name, n.Name, n.mode, f), func(t *testing.T) {
					everywhere := []string{"pod-1", "pod-4", "n3"}
					n.reaches(t, from, at(all), everywhere, false)
					switch {
					case from != n.Host:
						n.reaches(t, from, at(own), []string{n.endpoint}, true)
					case n.mode != "ipvs": // where clients on the node have the pool of all others
						n.reaches(t, from, at(own), everywhere, false)
					}
					sticks(t, client{Host: from, any: true}, proxy.TCP, at(stays))
				})
			}
		}
	}
}

// mixedNodes are n1, n2, and one more behind n2 whose pod uses the host's network.
func (c *cluster) mixedNodes() []mixedNode {
	c.t.Helper()
	modes := c.switchable()
	n3, err := c.Attach("n3", netip.MustParsePrefix("192.168.52.0/24"), netip.MustParsePrefix("fd52::/64"))
	if err != nil {
		c.t.Fatal(err)
	}
	nodes := []mixedNode{{Host: c.Node(), mode: "nftables", endpoint: "pod-1"}, {Host: c.Host("n2"), mode: "iptables-nft", endpoint: "pod-4"}, {Host: n3, mode: modes[len(modes)-1], endpoint: "n3"}}
	for _, n := range nodes {
		err := n.Do(func() (err error) {
			for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
				err = errors.Join(err, os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0o644))
			}
			return err
		})
		if err != nil {
			c.t.Fatal(err)
		}
	}
	return nodes
}

// ownAddrs are all addresses of a host.
func ownAddrs(t *testing.T, h *lab.Host) (out []netip.Addr) {
	t.Helper()
	err := h.Do(func() error {
		addrs, err := net.InterfaceAddrs()
		for _, a := range addrs {
			out = append(out, netip.MustParsePrefix(a.String()).Addr())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// nodeObject is the Node of a host.
func (c *cluster) nodeObject(h *lab.Host) metav1.Object {
	n := objects.Node(c.Cluster)
	n.Name, n.Status.Addresses = h.Name, nil
	for _, f := range proxy.Families {
		n.Status.Addresses = append(n.Status.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: h.Addr(f).String()})
	}
	return n
}

// startOn starts the proxy on a node, and waits until it is ready. It is killed at the end of the test.
func (c *cluster) startOn(n mixedNode) {
	c.t.Helper()
	path, err := binary()
	if err != nil {
		c.t.Fatal(err)
	}
	name, variant, _ := strings.Cut(n.mode, "-")
	if variant != "" {
		for _, program := range []string{"iptables-", "ip6tables-"} {
			cmd := exec.Command(program+variant, "-w", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
			if err := n.Start(cmd); err != nil {
				c.t.Fatalf("start %s: %v", cmd, err)
			}
			_ = cmd.Wait() // without the chain the proxy takes the other variant, which shows
		}
	}
	cmd, log := exec.Command(path, append(c.usualArgs(), "--hostname-override="+n.Name, "--proxy-mode="+name, "--nodeport-addresses=primary")...), &logBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := n.Start(cmd); err != nil {
		c.t.Fatalf("start %s: %v", cmd, err)
	}
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if c.t.Failed() {
			c.t.Logf("log of the proxy on %s:\n%s", n.Name, log.tail())
		}
	})
	eventually(c.t, n.Name+" ready", func() bool {
		got, err := fetch(n.Host, http.MethodGet, healthServer, "/readyz", nil)
		return err == nil && got.status == http.StatusOK
	})
	if variant != "" {
		eventually(c.t, "variant "+variant+" taken on "+n.Name, func() bool { return strings.Contains(log.String(), "iptables-"+variant+"-restore") })
	}
}

// reaches connects from a host to a NodePort of the node until all servers were reached. They must see the client if its address is kept or the server
// uses this node's network; otherwise this node.
func (n mixedNode) reaches(t *testing.T, from *lab.Host, to netip.AddrPort, servers []string, kept bool) {
	t.Helper()
	seen, clients, node := map[string]bool{}, ownAddrs(t, from), ownAddrs(t, n.Host)
	for range attempts {
		got := dial(client{Host: from, any: true}, proxy.TCP, to, lab.Connected)
		if got.Result != lab.Connected || !slices.Contains(servers, got.Server) {
			t.Fatalf("%s to %s: %s; want one of %v", from.Name, to, got, servers)
		}
		want := node
		if kept || got.Server == n.Name {
			want = clients
		}
		if !slices.Contains(want, got.SeenSource) {
			t.Errorf("%s to %s: %s; want it to see one of %v", from.Name, to, got, want)
		}
		if seen[got.Server] = true; len(seen) == len(servers) {
			return
		}
	}
	t.Errorf("%s to %s: %d connections reached only %v, want %v", from.Name, to, attempts, seen, servers)
}
