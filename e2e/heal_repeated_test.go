package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// TestHealRepeated has an adversary delete the tables again and again. The proxy must live with that, without using the machine up, and
// mend them as soon as the adversary gives up.
func TestHealRepeated(t *testing.T) {
	const lasting, period = 4 * time.Second, 200 * time.Millisecond
	c := newCluster(t)
	n := newNft(t, c.Node())
	c.serve("pod-1", "pod-2")
	c.set(c.stock("pod-1")...)
	p := c.start()
	before, start, used := bothListings(n), time.Now(), p.processorTime()
	few := func() bool { // repairs: a busy machine gets the time
		repairs := p.repairs()
		return min(repairs[proxy.IPv4], repairs[proxy.IPv6]) < 3 && time.Since(start) < patience
	}
	for time.Since(start) < lasting || few() {
		n.load("add table ip kube-proxy; delete table ip kube-proxy; add table ip6 kube-proxy; delete table ip6 kube-proxy")
		if answer, err := p.get("127.0.0.1:10256", "/livez"); err != nil || answer.status != http.StatusOK {
			t.Fatalf("/livez: %+v, %v", answer, err)
		}
		time.Sleep(period)
	}
	share := float64(p.processorTime()-used) / float64(time.Since(start))
	t.Logf("repairs %v, processor time used: %.0f %%; as before after %v", p.repairs(), 100*share, p.restored(n, before))
	if share > 0.5 { // far more than needed, also with the race detector
		t.Errorf("the proxy used %.0f %% of a processor", 100*share)
	}
	o := c.Client().Dial(proxy.TCP, c.address(newService(1, "web"), proxy.NodePort, proxy.IPv4, proxy.TCP), lab.DialOptions{Timeout: longTimeout})
	if o.Result != lab.Connected {
		t.Errorf("a connection at the end: %s", o)
	}
	for f, repairs := range p.repairs() {
		if repairs < 3 {
			t.Errorf("%s: %v repairs while the table was deleted every %v for %v", f, repairs, period, lasting)
		}
	}
}

// processorTime is what the process used so far.
func (p *process) processorTime() time.Duration {
	p.t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	// The name in parentheses may have spaces; utime and stime are fields 14 and 15, in hundredths of a second (proc(5), USER_HZ).
	fields := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:])
	var sum time.Duration
	for _, field := range fields[11:13] {
		ticks, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			p.t.Fatal(err)
		}
		sum += time.Duration(ticks) * 10 * time.Millisecond
	}
	return sum
}
