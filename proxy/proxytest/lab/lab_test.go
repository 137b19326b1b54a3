package lab

import (
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

func TestMain(m *testing.M) { os.Exit(proxytest.Main(m)) }

var protocols = []proxy.Protocol{proxy.TCP, proxy.UDP, proxy.SCTP}

// patience is how long to wait for an answer that must come, however busy the machine is.
const patience = 10 * time.Second

// Everybody reaches everybody, in both families and all protocols, and is seen by the address of its own.
func TestReachability(t *testing.T) {
	l := ForTest(t)
	for _, h := range l.Hosts() {
		for _, p := range protocols {
			if _, err := h.Serve(p, 8080); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, from := range l.Hosts() {
		for _, to := range l.Hosts() {
			for _, f := range proxy.Families {
				for _, p := range protocols {
					o := from.Dial(p, netip.AddrPortFrom(to.Addr(f), 8080), DialOptions{Timeout: patience})
					if o.Result != Connected || o.Server != to.Name {
						t.Errorf("%s to %s by %s/%s: %v", from.Name, to.Name, f, p, o)
						continue
					}
					if from.Name != "n1" && from.Name != "n2" && o.SeenSource != from.Addr(f) {
						t.Errorf("%s to %s by %s/%s: seen as %s", from.Name, to.Name, f, p, o.SeenSource)
					}
				}
			}
		}
	}
}

// Dial tells apart what may happen to a connection.
func TestDialResults(t *testing.T) {
	l := ForTest(t)
	client, node, pod := l.Client(), l.Node(), l.Host("pod-1")
	for _, f := range proxy.Families {
		// A reset by a pod without a server, an ICMP error by one whose UDP port nobody has.
		if o := client.Dial(proxy.TCP, netip.AddrPortFrom(pod.Addr(f), 1), DialOptions{Timeout: patience}); o.Result != Refused || o.ICMP {
			t.Errorf("%s: TCP to a closed port: %v", f, o)
		}
		if o := client.Dial(proxy.UDP, netip.AddrPortFrom(pod.Addr(f), 1), DialOptions{Timeout: patience}); o.Result != Refused {
			t.Errorf("%s: UDP to a closed port: %v", f, o)
		}
	}
	filter(t, node)
	for _, f := range proxy.Families {
		for _, p := range protocols {
			to := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(pod.Addr(f), port) }
			if o := client.Dial(p, to(1001), DialOptions{Timeout: 100 * time.Millisecond}); o.Result != Timeout || o.Took > patience {
				t.Errorf("%s/%s dropped: %v after %v", f, p, o, o.Took)
			}
			if o := client.Dial(p, to(1002), DialOptions{Timeout: patience}); o.Result != Refused || o.ICMP != (p == proxy.TCP) {
				t.Errorf("%s/%s port unreachable: %v", f, p, o)
			}
			if o := client.Dial(p, to(1003), DialOptions{Timeout: patience}); o.Result != Unreachable {
				t.Errorf("%s/%s host unreachable: %v", f, p, o)
			}
		}
	}
}

// filter drops port 1001 on the node, and rejects ports 1002 and 1003 as unreachable port and host.
func filter(t *testing.T, node *Host) {
	t.Helper()
	err := node.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyINet})
		chain := c.AddChain(&nftables.Chain{Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
		for port, verdict := range map[uint16]expr.Any{
			1001: &expr.Verdict{Kind: expr.VerdictDrop},
			1002: &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH},
			1003: &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_HOST_UNREACH},
		} {
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
				verdict,
			}})
		}
		return c.Flush()
	})
	if err != nil {
		t.Fatalf("filter on the node: %v", err)
	}
}

func TestDialSource(t *testing.T) {
	l := ForTest(t)
	pod, client := l.Host("pod-4"), l.Client()
	for _, p := range protocols {
		stop, err := pod.Serve(p, 90)
		if err != nil {
			t.Fatal(err)
		}
		source := netip.AddrPortFrom(client.Addrs[1], 4711)
		for range 3 { // the same port again and again
			o := client.Dial(p, netip.AddrPortFrom(pod.Addr(proxy.IPv4), 90), DialOptions{Source: source, Timeout: patience})
			if o.Result != Connected || netip.AddrPortFrom(o.SeenSource, o.SeenPort) != source {
				t.Errorf("%s from %s: %v, port %d", p, source, o, o.SeenPort)
			}
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		o := client.Dial(p, netip.AddrPortFrom(pod.Addr(proxy.IPv4), 90), DialOptions{Timeout: 100 * time.Millisecond})
		if o.Result == Connected {
			t.Errorf("%s: stopped server still answers: %v", p, o)
		}
	}
}

func TestFlow(t *testing.T) {
	l := ForTest(t)
	pod, client := l.Host("pod-1"), l.Client()
	for _, p := range []proxy.Protocol{proxy.TCP, proxy.UDP} {
		stop, err := pod.Serve(p, 90)
		if err != nil {
			t.Fatal(err)
		}
		f, err := client.Flow(p, netip.AddrPortFrom(pod.Addr(proxy.IPv6), 90), time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(patience); f.Report().Answered < 10 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		}
		if r := f.Report(); r.Err != nil || r.Answered < 10 || len(r.Servers) != 1 || r.Servers[0] != "pod-1" {
			t.Errorf("%s: %v", p, r)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if r := f.Report(); r.Sent > r.Answered {
				break
			}
		}
		if r := f.Stop(); r.Intact() {
			t.Errorf("%s: the server went away, but: %v", p, r)
		}
	}
}

func TestLoad(t *testing.T) {
	l := ForTest(t)
	pod, client := l.Host("pod-1"), l.Client()
	if _, err := pod.Serve(proxy.TCP, 90); err != nil {
		t.Fatal(err)
	}
	r := client.Load(t.Context(), proxy.TCP, netip.AddrPortFrom(pod.Addr(proxy.IPv4), 90), LoadOptions{Attempts: 200, Timeout: patience})
	if r.OK != 200 || r.Failed != 0 || r.Servers["pod-1"] != 200 || r.Seen[client.Addr(proxy.IPv4)] != 200 {
		t.Errorf("200 attempts: %v", r)
	}
	t.Logf("%v in %v", r, r.Took)
	r = client.Load(t.Context(), proxy.TCP, netip.AddrPortFrom(pod.Addr(proxy.IPv4), 91), LoadOptions{Attempts: 20, Timeout: patience})
	if r.OK != 0 || r.Failed != 20 || len(r.Errors) != maxErrors || r.Errors[0].Result != Refused {
		t.Errorf("20 attempts to a closed port: %v", r)
	}
}

// A process runs in the namespace, and does not outlive the lab.
func TestStart(t *testing.T) {
	l, err := New()
	if err != nil {
		t.Skipf("needs network namespaces: %v", err)
	}
	defer l.Close()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "cat /proc/net/route && exec sleep 60")
	cmd.Stdout = in
	if err := l.Host("pod-1").Start(cmd); err != nil {
		t.Fatal(err)
	}
	in.Close()
	ended := make(chan error, 1)
	table := make([]byte, 4096)
	n, err := out.Read(table)
	if err != nil || !strings.Contains(string(table[:n]), "0101F40A") { // 10.244.1.1
		t.Errorf("routes of pod-1: %q, %v", table[:n], err)
	}
	go func() { ended <- cmd.Wait() }()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "killed") {
			t.Errorf("process ended with %v", err)
		}
	case <-time.After(patience):
		_ = cmd.Process.Kill()
		t.Error("process outlives the lab")
	}
	if err := l.Host("pod-1").Start(exec.Command("true")); err == nil {
		t.Error("a closed lab starts processes")
	}
}

func TestSCTPDecodeRefusesDamage(t *testing.T) {
	good := (&sctpPacket{from: 1, to: 2, tag: 3, chunk: sctpInitAck, initTag: 4, cookie: []byte("five!")}).encode()
	p, err := decodeSCTP(good)
	if err != nil || string(p.cookie) != "five!" || p.from != 1 || p.to != 2 || p.tag != 3 || p.initTag != 4 {
		t.Fatalf("decoded %+v, %v", p, err)
	}
	for i := range good {
		bad := append([]byte(nil), good...)
		bad[i] ^= 0x10
		if _, err := decodeSCTP(bad); err == nil {
			t.Errorf("byte %d damaged, but accepted", i)
		}
	}
	for n := range good {
		if _, err := decodeSCTP(good[:n]); err == nil {
			t.Errorf("cut to %d bytes, but accepted", n)
		}
	}
}

// TestPortsDoNotComeBack shows that no port is used again while conntrack may remember it: for half a minute, in which a test whose rules change sends
// far fewer datagrams.
func TestPortsDoNotComeBack(t *testing.T) {
	seen := map[uint16]bool{}
	for range sourcePorts {
		port := nextPort()
		if seen[port] || port < firstPort {
			t.Fatalf("port %d", port)
		}
		seen[port] = true
	}
}

// What the ports are for: datagrams leave from them, and one that is in use is left out.
func TestUDPPorts(t *testing.T) {
	l := ForTest(t)
	pod, client := l.Host("pod-1"), l.Client()
	if _, err := pod.Serve(proxy.UDP, 90); err != nil {
		t.Fatal(err)
	}
	seen := map[uint16]bool{}
	for i := range 1000 {
		to := netip.AddrPortFrom(pod.Addr(proxy.Families[i%2]), 90)
		o := client.Dial(proxy.UDP, to, DialOptions{Timeout: patience})
		if o.Result != Connected || seen[o.SeenPort] {
			t.Fatalf("%v from port %d, again: %t", o, o.SeenPort, seen[o.SeenPort])
		}
		seen[o.SeenPort] = true
	}
	to := netip.AddrPortFrom(pod.Addr(proxy.IPv4), 90)
	next := uint16(firstPort + (lastPort.Load()+1)%sourcePorts)
	f, err := client.Flow(proxy.UDP, to, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Stop()
	lastPort.Store(uint32(next-firstPort) + sourcePorts - 1) // so that the flow's port comes next
	if o := client.Dial(proxy.UDP, to, DialOptions{Timeout: patience}); o.Result != Connected || o.SeenPort == next {
		t.Errorf("%v from port %d, want it from another than %d, which is in use", o, o.SeenPort, next)
	}
}
