package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"turnout/proxy"
)

// toolbox is the only folder in which a proxy looks for programs.
type toolbox struct {
	c    *cluster
	path string
}

func (c *cluster) toolbox() *toolbox { return &toolbox{c, c.t.TempDir()} }

// programs of iptables that the proxy may use.
var programs = []string{"iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"}

// fill puts programs into the folder, or takes them out again: the machine's own, behind a script if there is one. In the script, $real is the program.
func (b *toolbox) fill(script string) {
	b.c.t.Helper()
	for _, name := range programs {
		for _, suffix := range []string{"", "-restore", "-save"} {
			path := filepath.Join(b.path, name+suffix)
			if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
				b.c.t.Fatal(err)
			}
			program, err := exec.LookPath(name + suffix)
			if err != nil {
				b.c.t.Skipf("needs the command %s: %v", name+suffix, err)
			}
			if script == "" {
				err = os.Symlink(program, path)
			} else {
				err = os.WriteFile(path, []byte("#!/bin/sh\nreal="+program+"\nseen="+b.seen()+"\n"+script), 0o755)
			}
			if err != nil {
				b.c.t.Fatal(err)
			}
		}
	}
}

// seen is a file that scripts make.
func (b *toolbox) seen() string { return filepath.Join(b.path, "seen") }

// launch starts the proxy.
func (b *toolbox) launch(args ...string) *process {
	b.c.t.Helper()
	path, err := binary()
	if err != nil {
		b.c.t.Fatal(err)
	}
	cmd := exec.Command(path, append(b.c.usualArgs(), args...)...)
	cmd.Env = append(os.Environ(), "PATH="+b.path)
	return b.c.run(cmd)
}

// Programs that hang: all of them at once, or only when they are given the rules of Services.
const (
	hang      = "echo >$seen; exec /bin/sleep 1000\n"
	hangLater = "case $0 in *-restore) ;; *) exec $real \"$@\" ;; esac\n" +
		"in=$(/bin/cat)\n" +
		"case $in in *:KUBE-SEP-*) echo >$seen; exec /bin/sleep 1000 ;; esac\n" +
		"/usr/bin/printf '%s\\n' \"$in\" | $real \"$@\"\n"
)

// TestImpossibleModes asks for modes that the node cannot have, by label and by configuration file: the mode in use stays, follows changes
// meanwhile, and the reason is told once. What becomes possible is tried again.
func TestImpossibleModes(t *testing.T) {
	t.Parallel()
	needSwitchable(t)
	c := newCluster(t)
	c.symmetric()
	c.serve(c.allPods()...)
	web, n := newService(1, "web"), 0
	works := func(p *process, when string) {
		t.Helper()
		pod := c.allPods()[1+n%3]
		n++
		c.set(c.with(web, on(pod))...)
		p.follow()
		c.probe(t, c.bothFamilies(when, c.from(localPod), c.of(web, proxy.ClusterIP), kept(pod))...)
	}
	box := c.toolbox()
	v := c.mountConfig("")
	p := box.launch(v.arg())
	works(p, "at first")

	c.label("iptable")
	p.logged("Node event", "ProxyModeRefused", "the mode stays nftables", `did you mean \"iptables\"?`)
	works(p, "with a label that is no mode")
	c.label("iptables")
	p.logged("Node event", "ProxyModeRefused", "the mode stays nftables", "iptables-nft", "not found", "install iptables")
	works(p, "without programs")
	for range 3 {
		c.label("iptables")
		works(p, "with the same label")
	}
	if got := p.countLog(0, "Node event", "ProxyModeRefused"); got != 2 {
		t.Errorf("%d events that a mode is refused, want one for each reason", got)
	}
	v.set("mode: iptables\n")
	p.logged("Node event", "ConfigurationInvalid", "mode: iptables: ", "install iptables")
	p.inMode("nftables", "configuration")
	works(p, "with a file that asks for it, too")
	v.set("")
	p.until(fileInUse, 1)

	box.fill("")
	c.label("")
	p.follow() // or the proxy may see no change at all
	c.label("iptables")
	p.inMode("iptables", "node_label")
	works(p, "with programs")
	c.label("")
	p.inMode("nftables", "configuration")
	c.hasOnly("nftables")
	p.logged("Node event", "ProxyModeChosen", "mode nftables (configuration)")
}

// TestHangingPrograms has the programs of iptables hang when a label asks for that mode, from the beginning or in the middle: the mode in use stays, and
// follows changes meanwhile. Ending the proxy does not wait for them, and the next start leaves nothing of the other mode.
func TestHangingPrograms(t *testing.T) {
	t.Parallel()
	needSwitchable(t)
	for name, script := range map[string]string{"at once": hang, "in the middle": hangLater} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			c.serve(c.allPods()...)
			web := newService(1, "web")
			c.set(c.with(web, on("pod-2"))...)
			box := c.toolbox()
			box.fill(script)
			p := box.launch()
			p.follow()
			c.label("iptables")
			eventually(t, "a program hangs", func() bool { _, err := os.Stat(box.seen()); return err == nil })
			for _, pod := range []string{"pod-3", "pod-2"} {
				began := time.Now()
				c.set(c.with(web, on(pod))...)
				p.follow()
				if took := time.Since(began); took > patience/4 { // a program may take twice as long
					t.Errorf("a change took %v", took)
				}
				c.probe(t, c.bothFamilies("meanwhile", c.from("client"), c.of(web, proxy.LoadBalancerIP), masqueraded(pod))...)
			}
			p.inMode("nftables", "configuration")
			began := time.Now()
			p.stop()
			if took := time.Since(began); took > patience/4 {
				t.Errorf("the proxy ended after %v", took)
			}
			c.label("")
			c.start()
			c.hasOnly("nftables")
		})
	}
}

// TestImpossibleStart starts the proxy in a mode that the node cannot have: it ends with exit status 1 and one line that says what is missing and what helps.
func TestImpossibleStart(t *testing.T) {
	t.Parallel()
	if *modeFlag != "nftables" {
		t.Skip("starts in other modes itself")
	}
	c := newCluster(t)
	for name, row := range map[string]struct {
		mode string
		want []string
	}{
		"no programs": {"iptables", []string{"iptables-nft", "not found", "install iptables"}},
		"no IPVS":     {"ipvs", []string{"this node cannot run mode ipvs", "ip_vs"}},
	} {
		t.Run(name, func(t *testing.T) {
			if row.mode == "ipvs" && hasIPVS() {
				t.Skip("the kernel has IPVS")
			}
			p := c.toolbox().launch("--proxy-mode=" + row.mode)
			select {
			case <-p.ended:
			case <-time.After(patience):
				t.Fatal("the proxy does not end")
			}
			if code := p.cmd.ProcessState.ExitCode(); code != 1 {
				t.Errorf("the proxy ended with %v, want exit status 1", p.cmd.ProcessState)
			}
			p.logged(append(row.want, "turnout: ")...)
			if got := c.modesInKernel(); len(got) > 0 {
				t.Errorf("there are rules of %v", got)
			}
		})
	}
}

// hasIPVS tells whether the kernel may have IPVS.
func hasIPVS() bool {
	_, err := os.Stat("/proc/net/ip_vs")
	modules, _ := filepath.Glob("/lib/modules/*/modules.dep")
	return err == nil || len(modules) > 0
}
