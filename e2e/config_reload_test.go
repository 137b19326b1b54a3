package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"turnout/proxy"
)

// configVolume is a mounted ConfigMap with the proxy's configuration file.
type configVolume struct {
	c       *cluster
	dir     string
	version int
}

const (
	reloads      = "turnout_config_reloads_total"
	reloadErrors = "turnout_config_reload_errors_total"
	fileInUse    = "turnout_config_file_in_use"
)

// noConntrack leaves alone what is not a namespace's own.
const noConntrack = "conntrack: {maxPerCore: 0, min: 0}\n"

// mountConfig makes the volume; settings are those beyond what every proxy of the lab needs.
func (c *cluster) mountConfig(settings string) *configVolume {
	c.t.Helper()
	v := &configVolume{c: c, dir: c.t.TempDir()}
	v.set(settings)
	if err := os.Symlink("..data/config.conf", filepath.Join(v.dir, "config.conf")); err != nil {
		c.t.Fatal(err)
	}
	return v
}

// set replaces the file as kubelet does: a new folder, and a link to it that is renamed.
func (v *configVolume) set(settings string) {
	v.c.t.Helper()
	v.version++
	name := fmt.Sprintf("..%d", v.version)
	text := "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\nclusterCIDR: " + joinPrefixes(v.c) + "\n" + settings
	if !strings.Contains(settings, "conntrack:") {
		text += noConntrack
	}
	err := errors.Join(os.Mkdir(filepath.Join(v.dir, name), 0o755),
		os.WriteFile(filepath.Join(v.dir, name, "config.conf"), []byte(text), 0o644),
		os.Symlink(name, filepath.Join(v.dir, "..data_tmp")),
		os.Rename(filepath.Join(v.dir, "..data_tmp"), filepath.Join(v.dir, "..data")))
	if err == nil && v.version > 1 {
		err = os.RemoveAll(filepath.Join(v.dir, fmt.Sprintf("..%d", v.version-1)))
	}
	if err != nil {
		v.c.t.Fatal(err)
	}
}

func joinPrefixes(c *cluster) string {
	var texts []string
	for _, p := range c.ClusterCIDRs {
		texts = append(texts, p.String())
	}
	return strings.Join(texts, ",")
}

// arg is the flag for the file.
func (v *configVolume) arg() string { return "--config=" + filepath.Join(v.dir, "config.conf") }

// until waits until a metric has a value.
func (p *process) until(name string, want float64) {
	p.t.Helper()
	var got map[string]float64
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if got, err = p.metrics(); err == nil && got[name] == want {
			return
		}
	}
	p.t.Fatalf("%s is %v, want %v (%v)", name, got[name], want, err)
}

// expect checks metrics of the configuration file.
func (p *process) expect(want map[string]float64) {
	p.t.Helper()
	got, err := p.metrics()
	if err != nil {
		p.t.Fatal(err)
	}
	for name, value := range want {
		if got[name] != value {
			p.t.Errorf("%s is %v, want %v", name, got[name], value)
		}
	}
}

// TestConfigReload changes settings while clients connect: what packets meet is what the file says, and nobody is disturbed.
func TestConfigReload(t *testing.T) {
	c := newCluster(t)
	c.symmetric()
	c.serve(c.allPods()...)
	web := newService(1, "web")
	c.set(c.stock("pod-5")...)
	v := c.mountConfig("")
	p := c.start(v.arg())
	s := c.open()
	c.probe(t, c.bothFamilies("before", c.from(localPod), c.of(web, proxy.ClusterIP), kept("pod-2", "pod-5"))...)
	p.expect(map[string]float64{reloads: 0, reloadErrors: 0, fileInUse: 1})

	v.set("nftables: {masqueradeAll: true, masqueradeBit: 3, syncPeriod: 7s}\noomScoreAdj: 900\niptables: {masqueradeBit: 4}\nconntrack: {maxPerCore: 0, min: 0, tcpCloseWaitTimeout: 33m}\n")
	p.until(reloads, 1)
	p.settle()
	c.probe(t, c.bothFamilies("masqueraded", c.from(localPod), c.of(web, proxy.ClusterIP), masqueraded("pod-2", "pod-5"))...)
	p.logged("The configuration file changed and is in effect", `"nftables.masqueradeAll from false to true"`, `"nftables.masqueradeBit from 14 to 3"`, `"oomScoreAdj from -999 to 900"`)
	p.logged("Node event", "ConfigurationReloaded", "nftables.syncPeriod from 30s to 7s")
	p.warned("iptables.masqueradeBit: 4 has no effect in mode nftables")
	if score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.cmd.Process.Pid)); err != nil || strings.TrimSpace(string(score)) != "900" {
		t.Errorf("out-of-memory score %s, %v", score, err)
	}
	if got := c.sysctl("net/netfilter/nf_conntrack_tcp_timeout_close_wait"); got != "1980" {
		t.Errorf("timeout in CLOSE_WAIT %s, want 1980", got)
	}
	answer, err := p.get("127.0.0.1:10249", "/configz")
	if err != nil || !strings.Contains(answer.body, `"syncPeriod":"7s"`) {
		t.Errorf("/configz: %v, %+v", err, answer)
	}

	v.set("")
	p.until(reloads, 2)
	p.settle()
	c.probe(t, c.bothFamilies("kept again", c.from(localPod), c.of(web, proxy.ClusterIP), kept("pod-2", "pod-5"))...)
	s.close()
	p.expect(map[string]float64{reloads: 2, reloadErrors: 0, fileInUse: 1})
}

// sysctl reads a setting of the node.
func (c *cluster) sysctl(name string) string {
	c.t.Helper()
	var value []byte
	err := c.Node().Do(func() (err error) {
		value, err = os.ReadFile("/proc/sys/" + name)
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.TrimSpace(string(value))
}

// settle waits until the kernel follows the configuration that is in effect.
func (p *process) settle() {
	p.t.Helper()
	p.set() // a new generation
	p.follow()
}

// TestConfigReloadOfAddresses changes where NodePorts are served, and how pods are recognised.
func TestConfigReloadOfAddresses(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.symmetric()
	c.serve("pod-2", "pod-5")
	s := newService(1, "local", externalLocal)
	c.set(c.with(s, on("pod-2"), on("pod-5"))...)
	v := c.mountConfig("")
	p := c.start(v.arg())
	second := func(f proxy.Family) netip.AddrPort {
		text := []string{"192.168.51.1", "fd51::1"}[index(f)]
		return netip.AddrPortFrom(netip.MustParseAddr(text), uint16(s.Spec.Ports[0].NodePort))
	}
	check := func(when string, inside, first, other expectation) {
		var probes []probe
		probes = append(probes, c.bothFamilies(when+": first address", c.from(outside), c.of(s, proxy.NodePort), first)...)
		probes = append(probes, c.bothFamilies(when+": second address", c.from(outside), second, other)...)
		probes = append(probes, c.bothFamilies(when+": ClusterIP from a pod of another node", c.from(remotePod), c.of(s, proxy.ClusterIP), inside)...)
		c.probe(t, probes...)
	}
	both := []string{"pod-2", "pod-5"}
	check("at first", kept(both...), kept("pod-2"), refused)
	v.set("nodePortAddresses: [192.168.51.0/24, \"fd51::/64\"]\ndetectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth-}\n")
	p.until(reloads, 1)
	p.settle()
	check("changed", masqueraded(both...), refused, kept("pod-2"))
	v.set("nodePortAddresses: [all]\n")
	p.until(reloads, 2)
	p.settle()
	check("changed again", kept(both...), kept("pod-2"), kept("pod-2"))
	p.expect(map[string]float64{reloadErrors: 0, fileInUse: 1})
}

// TestConfigRefused writes files that cannot be used, and then one that can.
func TestConfigRefused(t *testing.T) {
	t.Parallel()
	c, web := oneService(t)
	v := c.mountConfig("")
	p := c.start(v.arg())
	works := func(name string) {
		c.probe(t, c.bothFamilies(name, c.from(localPod), c.of(web, proxy.ClusterIP), kept("pod-2"))...)
	}
	v.set("nftables: {masqueradeAll: true, masqueradeBit: 32, syncPeriod: soon}\noomScoreAdj: 5000\n")
	p.until(reloadErrors, 1)
	p.logged("cannot be used", "nftables.masqueradeBit: 32 is outside 0 to 31", `nftables.syncPeriod: \"soon\" does not fit`, "oomScoreAdj: 5000 is outside -1000 to 1000")
	p.logged("Node event", "ConfigurationInvalid", "nftables.masqueradeBit: 32")
	v.set("mode: ipvs\nipvs: {scheduler: nonsense}\n") // a key that is there twice: the last one counts
	p.until(reloadErrors, 2)
	p.logged("cannot be used", "this node cannot run mode ipvs")
	v.set(": no YAML: [\n")
	p.until(reloadErrors, 3)
	p.expect(map[string]float64{reloads: 0, fileInUse: 0})
	works("with a file that cannot be used")

	v.set("")
	p.until(fileInUse, 1)
	p.logged("The configuration file changed, but no setting did")
	v.set("# only a comment\nnftables: {syncPeriod: 30s}\n")
	time.Sleep(300 * time.Millisecond) // longer than a change takes to be noticed
	p.expect(map[string]float64{reloads: 0, reloadErrors: 3, fileInUse: 1})
	works("in the end")
}

// TestConfigTouched writes the file as it is already.
func TestConfigTouched(t *testing.T) {
	t.Parallel()
	c, _ := oneService(t)
	v := c.mountConfig("")
	p := c.start(v.arg())
	v.set("")
	now := time.Now()
	if err := os.Chtimes(filepath.Join(v.dir, "config.conf"), now, now); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // longer than a change takes to be noticed
	p.expect(map[string]float64{reloads: 0, reloadErrors: 0, fileInUse: 1})
	if strings.Contains(p.log.String(), "onfiguration file changed") {
		t.Error("the log tells of a change")
	}
}

// TestConfigNeedsRestart changes a field that only a new process can follow: this one ends with an error, as kube-proxy does, its rules go
// on working, and a new one has the new value.
func TestConfigNeedsRestart(t *testing.T) {
	t.Parallel()
	c, web := oneService(t)
	v := c.mountConfig("")
	p := c.start(v.arg())
	v.set("configSyncPeriod: 1m\nnftables: {masqueradeAll: true}\nenableProfiling: true\n")
	select {
	case <-p.ended:
	case <-time.After(patience):
		t.Fatal("the proxy does not end")
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("the proxy ended with %v, want exit status 1", p.cmd.ProcessState)
	}
	p.logged("turnout: configuration file changed", "configSyncPeriod from 15m0s to 1m0s", "enableProfiling from false to true")
	c.probe(t, c.bothFamilies("without a proxy", c.from(localPod), c.of(web, proxy.ClusterIP), kept("pod-2"))...)

	p = c.start(v.arg())
	c.probe(t, c.bothFamilies("started again", c.from(localPod), c.of(web, proxy.ClusterIP), masqueraded("pod-2"))...)
	if answer, err := p.get("127.0.0.1:10249", "/debug/pprof/goroutine"); err != nil || answer.status != 200 {
		t.Errorf("profiling: %v, %+v", err, answer)
	}
}
