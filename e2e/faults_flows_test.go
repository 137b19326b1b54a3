package e2e

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// fillFlows permits what changes a setting of the whole machine: it is for virtual machines.
var fillFlows = flag.Bool("flows.fill", false, "fill this machine's table of tracked connections for a minute")

// TestFullFlowTable has the kernel track too few connections: that is told, with what helps, while long connections live and changes are programmed. It is over
// when there is room again.
func TestFullFlowTable(t *testing.T) {
	if !*fillFlows {
		t.Skip("would have this machine drop packets; -flows.fill permits it in a virtual machine")
	}
	c := newCluster(t)
	c.serve(c.allPods()...)
	web := newService(1, "web")
	c.set(c.with(web, on("pod-2"))...)
	p := c.start()
	to := c.address(web, proxy.NodePort, proxy.IPv4, proxy.TCP)
	long, err := c.Client().Flow(proxy.TCP, to, 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	const setting, limit = "/proc/sys/net/netfilter/nf_conntrack_max", 64
	was, err := os.ReadFile(setting)
	if err != nil {
		t.Fatal(err)
	}
	restore := sync.OnceValue(func() error { return os.WriteFile(setting, was, 0o644) })
	defer func() {
		if err := restore(); err != nil {
			t.Error(err)
		}
	}()
	if err := os.WriteFile(setting, fmt.Append(nil, limit), 0o644); err != nil {
		t.Fatal(err)
	}
	for range limit { // those that fit stay; the kernel gives none of them up for another
		if f, err := c.Client().Flow(proxy.TCP, to, 100*time.Millisecond); err == nil {
			defer f.Stop()
		} else {
			break
		}
	}
	for end := time.Now().Add(2 * patience); !strings.Contains(p.log.String(), "Connections fail"); {
		if time.Now().After(end) {
			t.Fatal("nobody tells that the table is full")
		}
		c.Client().Dial(proxy.TCP, to, lab.DialOptions{Timeout: time.Second})
	}
	p.logged("Node event", "ConntrackTableFull", fmt.Sprintf("of %d flows", limit), "conntrack.maxPerCore")
	c.set(c.with(web, on("pod-3"))...) // programmed without a new connection
	if err := restore(); err != nil {
		t.Fatal(err)
	}
	p.follow()
	c.probe(t, c.bothFamilies("with room again", c.from(outside), c.of(web, proxy.LoadBalancerIP), masqueraded("pod-3"))...)
	if r := long.Stop(); !r.Intact() {
		t.Errorf("the long connection: %s", r)
	}
}
