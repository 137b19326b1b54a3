package compare

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	proxyconfig "k8s.io/kube-proxy/config/v1alpha1"

	"turnout/e2e/cluster/compare/beside"
	"turnout/proxy"
	"turnout/proxy/node"
	"turnout/proxy/proxytest"
	"turnout/proxy/proxytest/lab"
	proxysync "turnout/proxy/sync"
)

// modes are those that kube-proxy is started in.
var modes = []struct {
	settings
	// unusable says why the machine cannot have the mode, "" if it can.
	unusable func() string
}{
	{usual, func() string { return "" }},
	{inMode("iptables"), func() string {
		if _, err := exec.LookPath("iptables"); err != nil {
			return err.Error()
		}
		return ""
	}},
	{inMode("ipvs"), func() string {
		if _, err := os.Stat("/proc/net/ip_vs"); err != nil {
			return "the kernel has no IPVS: " + err.Error()
		}
		for _, program := range []string{"iptables", "ipset"} {
			if _, err := exec.LookPath(program); err != nil {
				return err.Error()
			}
		}
		return ""
	}},
}

// inMode are settings for a mode in which NodePorts are served on all addresses.
func inMode(mode string) settings {
	return settings{
		name:  mode,
		edit:  func(c *proxyconfig.KubeProxyConfiguration) { c.Mode = proxyconfig.ProxyMode(mode) },
		model: func(f *proxysync.FactsConfig) { f.NodePorts = node.NodePortConfig{All: true} },
	}
}

// usableModes returns the modes that the machine can have. For each other there is a test that is skipped with the reason.
func usableModes(t *testing.T) (out []settings) {
	for _, mode := range modes {
		if why := mode.unusable(); why != "" {
			t.Run(string(mode.mode()), func(t *testing.T) { t.Skip(why) })
			continue
		}
		out = append(out, mode.settings)
	}
	return out
}

// TestGoBack starts kube-proxy where Turnout was killed, each in any mode that it has. From then on packets must come to the same as in
// another lab, where nothing was before: what changed since Turnout was killed, and everything else, is up to kube-proxy alone.
func TestGoBack(t *testing.T) {
	program := binaries(t)
	handOvers(t, program.Turnout, program.KubeProxy)
}

// TestTakeOver starts Turnout where kube-proxy was killed, each in any mode that it has. No connection fails meanwhile.
func TestTakeOver(t *testing.T) {
	program := binaries(t)
	handOvers(t, program.KubeProxy, program.Turnout)
}

// handOvers starts one program where another was killed, each in any mode that the machine can have.
func handOvers(t *testing.T, before, after string) {
	usable := usableModes(t)
	for _, from := range usable {
		for _, to := range usable {
			t.Run(fmt.Sprintf("from %s to %s", from.mode(), to.mode()), func(t *testing.T) {
				p := newLabs(t, to, after, after)
				p.turnout.Name, p.upstream.Name = "after", "clean"
				p.handOver(t, before, p.config(t, from), after, p.path)
			})
		}
	}
}

// mode is the one that settings are for.
func (s settings) mode() proxyconfig.ProxyMode {
	c := proxyconfig.KubeProxyConfiguration{Mode: "nftables"}
	s.edit(&c)
	return c.Mode
}

// config writes the configuration of the proxy that runs first.
func (p *pair) config(t *testing.T, s settings) string {
	t.Helper()
	path, err := p.Config("before.conf", s.edit)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// handOver runs one proxy in the lab "after", kills it, changes objects, and starts another one there, as in the lab "clean".
func (p *pair) handOver(t *testing.T, before, beforeConfig, after, afterConfig string) {
	t.Helper()
	s, c := p.turnout, p.turnout.Lab.Cluster
	start := func(side *beside.Side, program, config string) {
		t.Helper()
		if err := side.StartProgram(program, "--hostname-override="+c.Node, "--config="+config, "-v=2"); err != nil {
			t.Fatal(err)
		}
	}
	first, gone, second := history(c)
	if err := p.Set(t.Context(), first...); err != nil {
		t.Fatal(err)
	}
	start(s, before, beforeConfig)
	if err := p.Settle(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	flows := openFlows(t, s)
	s.Kill()
	load := p.load(t)
	if err := p.Remove(t.Context(), gone...); err != nil {
		t.Fatal(err)
	}
	if err := p.Set(t.Context(), second...); err != nil {
		t.Fatal(err)
	}
	start(s, after, afterConfig)
	start(p.upstream, after, afterConfig)
	p.follow(nil)
	report := load()
	t.Logf("new connections meanwhile: %v", report)
	// kube-proxy removes the rules of modes other than its own long before it has any to put in their place.
	hitless := after == binaries(t).Turnout || p.mode(beforeConfig) == p.mode(afterConfig)
	if hitless && (report.Failed > 0 || report.Servers[lab.Stray] > 0 || report.OK < 20) {
		t.Errorf("connections failed while one proxy took over from the other: %v", report)
	}
	for _, f := range flows {
		if r := f.Stop(); hitless && !r.Intact() {
			t.Errorf("a connection from before was harmed: %v", r)
		}
	}
	p.sameRules(t, ofOthers...)
	compare := func(some ...string) {
		t.Helper()
		list := slices.DeleteFunc(packets(c, append(p.Objects(), gone...)), func(p packet) bool {
			return superfluous(p) || len(some) > 0 && !slices.Contains(some, p.service)
		})
		answered, unanswered := p.compare(t, list)
		t.Logf("%d packets compared, %d answered, %d not", len(list), answered, unanswered)
	}
	compare()
	// And so it goes on.
	gone = append(gone, with(c, service(51, "new"))...)
	if err := p.Remove(t.Context(), gone...); err != nil {
		t.Fatal(err)
	}
	p.set(with(c, service(41, "moves"), on("pod-3"))...)
	compare("default/moves", "default/new", "default/goes")
}

// ofOthers are chains that kube-proxy's mode iptables leaves, which are not its own: iptables makes the first when it is used, and the last
// is the kubelet's, too.
var ofOthers = []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING", "KUBE-FIREWALL"}

// mode reads the mode from a configuration file.
func (p *pair) mode(config string) string {
	text, err := os.ReadFile(config)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(regexp.MustCompile(`(?m)^mode: .*$`).Find(text))
}

// steady is the number of a Service that stays as it is.
const steady = 40

// history is what there is first, what of it goes, and what comes or changes then.
func history(c *proxytest.Cluster) (first, gone, second []metav1.Object) {
	all := map[string][]metav1.Object{}
	of := func(i int, name string, endpoints []endpointAt, edits ...func(*v1.Service)) []metav1.Object {
		all[name] = with(c, service(i, name, edits...), endpoints...)
		return all[name]
	}
	here, there := []endpointAt{on("pod-2")}, []endpointAt{on("pod-5")}
	for _, list := range [][]metav1.Object{
		of(steady, "steady", []endpointAt{on("pod-2"), on("pod-3")}),
		of(41, "moves", here), of(42, "goes", here), of(43, "ends", here), of(44, "begins", nil),
		of(45, "becomes-local", there), of(46, "opens", here, sourceRanges("203.0.113.0/24", "2001:db8::/64")),
		of(47, "closes", here), of(48, "sticks", []endpointAt{on("pod-1"), on("pod-2")}, clientAffinity),
		of(49, "loses-affinity", []endpointAt{on("pod-1"), on("pod-2")}, clientAffinity), of(50, "hairpin", []endpointAt{on("pod-1")}),
	} {
		first = append(first, list...)
	}
	gone = all["goes"]
	for _, list := range [][]metav1.Object{
		of(41, "moves", there), of(43, "ends", nil), of(44, "begins", here), of(45, "becomes-local", there, externalLocal, internalLocal),
		of(46, "opens", here), of(47, "closes", here, sourceRanges("203.0.113.0/24", "2001:db8::/64")),
		of(49, "loses-affinity", []endpointAt{on("pod-1"), on("pod-2")}), of(51, "new", here), of(52, "new-local", there, externalLocal),
	} {
		second = append(second, list...)
	}
	return first, gone, second
}

// openFlows opens connections to the steady Service that last.
func openFlows(t *testing.T, s *beside.Side) (flows []*lab.Flow) {
	t.Helper()
	for _, to := range steadyAddrs() {
		f, err := s.Client().Flow(proxy.TCP, to, 20*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		flows = append(flows, f)
	}
	return flows
}

// steadyAddrs are the load-balancer IPs of the steady Service.
func steadyAddrs() []netip.AddrPort {
	return []netip.AddrPort{
		netip.MustParseAddrPort(fmt.Sprintf("192.168.60.%d:80", steady)), netip.MustParseAddrPort(fmt.Sprintf("[fd60::%x]:80", steady)),
	}
}

// load connects to the steady Service again and again, until the returned function is called.
func (p *pair) load(t *testing.T) (stop func() lab.LoadReport) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	addrs := steadyAddrs()
	done := make(chan lab.LoadReport, len(addrs))
	for _, to := range addrs {
		go func() {
			// Far more than there is time for, and still bounded.
			done <- p.turnout.Client().Load(ctx, proxy.TCP, to, lab.LoadOptions{Parallel: 2, Attempts: 200000, Timeout: 3 * time.Second})
		}()
	}
	return func() lab.LoadReport {
		time.Sleep(200 * time.Millisecond)
		cancel()
		total := lab.LoadReport{Servers: map[string]int{}}
		for range addrs {
			r := <-done
			total.OK, total.Failed, total.Errors = total.OK+r.OK, total.Failed+r.Failed, append(total.Errors, r.Errors...)
			for server, n := range r.Servers {
				total.Servers[server] += n
			}
		}
		return total
	}
}
