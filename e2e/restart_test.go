package e2e

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/proxy"
	"turnout/proxy/nftables"
	"turnout/proxy/proxytest/lab"
)

// TestRestartKilled kills the proxy in the middle of changes, again and again. Clients of Services that stay must not notice, neither
// while it is down nor while it starts, and in the end the kernel has what it should.
func TestRestartKilled(t *testing.T) {
	c := newCluster(t)
	n := newNft(t, c.Node())
	c.serve(c.allPods()...)
	c.set(c.stock("pod-1")...)
	p := c.start()
	s := c.open()
	before := n.numbers("ip")
	rng := rand.New(rand.NewPCG(9, 10))
	for range 4 {
		s.churn(50*time.Millisecond, func() { time.Sleep(time.Duration(rng.IntN(50)) * time.Millisecond) })
		p.kill()
		s.churn(50*time.Millisecond, func() { time.Sleep(20 * time.Millisecond) })
		p = c.launch()
		s.churn(time.Duration(rng.IntN(150))*time.Millisecond, func() { time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond) })
	}
	p.follow()
	s.close()
	c.checkProgrammed(n)
	after := n.numbers("ip")
	for _, name := range []string{"default/web:port-0/TCP", "default/sticky:port-0/TCP"} {
		if before[name] == 0 || before[name] != after[name] {
			t.Errorf("%s had number %d, now %d", name, before[name], after[name])
		}
	}
}

var numberedElement = regexp.MustCompile(`comment "(\S+)" : ([0-9a-f]+):([0-9a-f]+)`)

// numbers lists the numbers of the Services in a family's table by their names.
func (n *nft) numbers(family string) map[string]int64 {
	n.t.Helper()
	out := map[string]int64{}
	for _, m := range numberedElement.FindAllStringSubmatch(n.run("list", "map", family, "kube-proxy", "frontends"), -1) {
		value, err := strconv.ParseInt(m[2]+fmt.Sprintf("%04s", m[3]), 16, 64)
		if err != nil {
			n.t.Fatal(err)
		}
		out[m[1]] = value & (1<<19 - 1) // without the class and the bit of the local pool
	}
	return out
}

// checkProgrammed compares the Services in the tables with those of the manifests, and connects to each.
func (c *cluster) checkProgrammed(n *nft) {
	c.t.Helper()
	want := map[string]bool{}
	for _, o := range append(slices.Collect(maps.Values(c.objects)), metav1.Object(c.mark())) {
		s, ok := o.(*v1.Service)
		if !ok {
			continue
		}
		for _, p := range s.Spec.Ports {
			name := s.Namespace + "/" + s.Name
			if p.Name != "" {
				name += ":" + p.Name
			}
			want[fmt.Sprintf("%s/%s", name, p.Protocol)] = true
		}
	}
	for _, family := range []string{"ip", "ip6"} {
		if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(n.numbers(family)))); diff != "" {
			c.t.Errorf("Services in table %s (-want +got):\n%s", family, diff)
		}
	}
	for _, o := range c.objects {
		s, ok := o.(*v1.Service)
		if !ok || s.Namespace != "default" {
			continue
		}
		for _, f := range proxy.Families {
			to := c.address(s, proxy.NodePort, f, proxy.TCP)
			if got := c.Client().Dial(proxy.TCP, to, lab.DialOptions{Timeout: longTimeout}); got.Result != lab.Connected {
				c.t.Errorf("%s at %s: %s", s.Name, to, got)
			}
		}
	}
}

// TestRestartStopped stops the proxy: its rules stay as they are and work, and a new process finds them as they should be.
func TestRestartStopped(t *testing.T) {
	c := newCluster(t)
	n := newNft(t, c.Node())
	c.serve(c.allPods()...)
	c.set(c.stock("pod-1")...)
	p := c.start()
	s := c.open()
	before, table := bothListings(n), n.handle(nftables.TableName)
	p.stop()
	if diff := cmp.Diff(before, bothListings(n)); diff != "" {
		t.Errorf("stopping changed the tables (-before +after):\n%s", diff)
	}
	for _, l := range s.loads {
		l.goesOn(10)
	}
	c.start()
	if now := n.handle(nftables.TableName); now != table {
		t.Errorf("the table was %s, now it is %s: it was replaced without need", table, now)
	}
	if diff := cmp.Diff(before, bothListings(n)); diff != "" {
		t.Errorf("starting again changed the tables (-before +after):\n%s", diff)
	}
	s.close()
}

// TestRestartUDP has the endpoint of a UDP flow go while the proxy is down: the new process must see to it that the flow goes elsewhere.
func TestRestartUDP(t *testing.T) {
	c := newCluster(t)
	c.serve("pod-1", "pod-2")
	dns := newService(3, "dns")
	c.set(c.with(dns, on("pod-1"))...)
	p := c.start()
	var flows []*lab.Flow
	for _, f := range proxy.Families {
		flows = append(flows, flow(t, c, "client", dns, proxy.NodePort, f))
		reaches(t, flows[len(flows)-1], "pod-1")
	}
	p.kill()
	c.set(c.with(dns, on("pod-2"))...)
	c.start()
	for _, f := range flows {
		reaches(t, f, "pod-2")
	}
}

// TestCleanup removes everything with --cleanup, also twice.
func TestCleanup(t *testing.T) {
	c := newCluster(t)
	n := newNft(t, c.Node())
	n.load(foreignTables)
	others := n.others()
	c.start().stop()
	if tables := n.run("list", "tables"); !strings.Contains(tables, "table ip kube-proxy\n") || !strings.Contains(tables, "table ip6 kube-proxy\n") {
		t.Fatalf("after a stop the tables are gone:\n%s", tables)
	}
	for range 2 {
		c.cleanUp()
		if tables := n.run("list", "tables"); strings.Contains(tables, "table ip kube-proxy\n") || strings.Contains(tables, "table ip6 kube-proxy\n") {
			t.Errorf("after --cleanup there are tables:\n%s", tables)
		}
	}
	if diff := cmp.Diff(others, n.others()); diff != "" {
		t.Errorf("tables of others (-before +after):\n%s", diff)
	}
}

// cleanUp runs the binary with --cleanup, which must succeed.
func (c *cluster) cleanUp() {
	c.t.Helper()
	if got := c.onNode("--cleanup"); got.code != 0 {
		c.t.Errorf("--cleanup: %+v", got)
	}
}

// TestProtectTable has another process try to change the table with --protect-table, and other processes take it over.
func TestProtectTable(t *testing.T) {
	c := newCluster(t)
	n := newNft(t, c.Node())
	c.serve(c.allPods()...)
	c.set(c.stock("pod-1")...)
	p := c.launch("--protect-table")
	eventually(t, "started or refused", func() bool {
		return !p.running() || p.behind() == ""
	})
	if !p.running() {
		t.Skip("the kernel has no protected tables: Linux 6.9 does")
	}
	s := c.open()
	for _, line := range []string{"delete table ip kube-proxy", "add rule ip kube-proxy services drop", "flush set ip6 kube-proxy hairpin"} {
		if out, err := n.try(line, "-f", "-"); err == nil || !strings.Contains(out, "Operation not permitted") {
			t.Errorf("nft %s: %v, %s; want it not to be permitted", line, err, out)
		}
	}
	n.run("flush", "ruleset") // succeeds, but leaves protected tables alone
	if now := n.run("list", "tables"); !strings.Contains(now, "table ip kube-proxy") {
		t.Errorf("nft flush ruleset deleted the table:\n%s", now)
	}
	for _, args := range [][]string{{"--protect-table"}, nil, {"--protect-table"}, nil} {
		p.kill()
		c.set(c.stock("pod-3")...)
		p = c.start(args...)
	}
	s.close()
	p.stop()
	c.cleanUp()
}
