package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// alive fails the test if the proxy has ended or does not say that it lives.
func (p *process) alive(when string) {
	p.t.Helper()
	if answer, err := p.get(healthServer, "/livez"); !p.running() || err != nil || answer.status != http.StatusOK {
		p.t.Fatalf("%s: running: %t; /livez: %+v, %v", when, p.running(), answer, err)
	}
}

// leads fails the test if web does not lead to a server, in both families.
func (c *cluster) leads(when, server string) {
	c.t.Helper()
	for _, f := range proxy.Families {
		to := c.address(newService(1, "web"), proxy.NodePort, f, proxy.TCP)
		for range 4 {
			if o := c.Client().Dial(proxy.TCP, to, lab.DialOptions{Timeout: longTimeout}); o.Server != server {
				c.t.Errorf("%s: a connection to %s: %s; want %s", when, to, o, server)
			}
		}
	}
}

// webOn are the objects of web with one endpoint.
func (c *cluster) webOn(pod string) { c.set(c.with(newService(1, "web"), on(pod))...) }

// TestSyscallErrors has every message that the proxy sends to the kernel fail with an error, by strace. While that lasts, nothing crashes, and Services are served as
// before; afterwards the kernel follows.
func TestSyscallErrors(t *testing.T) {
	t.Parallel()
	strace := tracer(t)
	c := newCluster(t)
	c.serve("pod-1", "pod-2")
	c.webOn("pod-1")
	p := c.start()
	pods := []string{"pod-1", "pod-2"}
	for i, errno := range []string{"EPERM", "ENOBUFS", "EINVAL", "EBUSY"} {
		was, next, logged := pods[i%2], pods[(i+1)%2], len(p.log.String())
		stop := p.injectErrors(strace, errno)
		c.webOn(next)
		p.loggedSince(logged, "Sync failed")
		p.alive("with " + errno)
		c.leads("with "+errno, was)
		stop()
		p.follow()
		c.leads("after "+errno, next)
	}
}

// injectErrors attaches strace to the proxy, whose messages to the kernel fail when this returns. The function ends that. A process that starts others while strace
// leaves it may be stopped for good, so this is for mode nftables only.
func (p *process) injectErrors(strace, errno string) (stop func()) {
	p.t.Helper()
	cmd := exec.Command(strace, "-f", "-qq", "-p", fmt.Sprint(p.cmd.Process.Pid), "-o", os.DevNull, "-e", "trace=sendto,sendmsg", "-e", "inject=sendto,sendmsg:error="+errno)
	if err := p.Node().Start(cmd); err != nil {
		p.t.Fatal(err)
	}
	eventually(p.t, "all threads are traced", p.traced)
	return func() {
		_ = cmd.Process.Signal(unix.SIGTERM) // has it leave the proxy alone
		kill := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		_ = cmd.Wait() // how it ended is of no interest
	}
}

// traced tells whether all threads of the proxy have a tracer.
func (p *process) traced() bool {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.cmd.Process.Pid))
	if err != nil || len(files) == 0 {
		return false
	}
	for _, file := range files {
		if status, err := os.ReadFile(file); err != nil || strings.Contains(string(status), "\nTracerPid:\t0\n") {
			return false
		}
	}
	return true
}

// TestLockHeld has another process hold the lock of iptables-legacy for longer than its programs wait for it: the proxy lives on, says who holds it, and follows as
// soon as it can.
func TestLockHeld(t *testing.T) {
	t.Parallel()
	needs(t, "iptables-legacy", "ip6tables-legacy")
	lock := filepath.Join(t.TempDir(), "lock") // rather than the machine's
	file, err := os.Create(lock)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	c := newCluster(t)
	c.serve("pod-1", "pod-2")
	c.webOn("pod-1")
	c.sh("for p in iptables ip6tables; do XTABLES_LOCKFILE=" + lock + " $p-legacy -t mangle -N KUBE-IPTABLES-HINT; done")
	p := c.runWith([]string{"XTABLES_LOCKFILE=" + lock}, "--proxy-mode=iptables", "--nodeport-addresses=primary", "--iptables-min-sync-period=10ms")
	p.follow()
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	c.webOn("pod-2")
	p.logged("Sync failed", "did not get its lock", fmt.Sprintf("it is held by process %d (", os.Getpid()), "fuser")
	p.alive("while the lock is held")
	c.leads("while the lock is held", "pod-1")
	if err := unix.Flock(int(file.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	p.follow()
	c.leads("when it is given back", "pod-2")
}

// runWith starts the proxy with further environment variables.
func (c *cluster) runWith(env []string, args ...string) *process {
	c.t.Helper()
	path, err := binary()
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command(path, append(c.usualArgs(), args...)...)
	cmd.Env = append(os.Environ(), env...)
	return c.run(cmd)
}

// TestBrokenProgramsOfIptables has the programs of iptables break in several ways while the proxy runs: it lives on, says what is wrong and what helps, and the rules
// stay as they are; when the programs work again, it follows, and nothing is there twice.
func TestBrokenProgramsOfIptables(t *testing.T) {
	t.Parallel()
	for _, variant := range []string{"nft", "legacy"} {
		t.Run(variant, func(t *testing.T) {
			t.Parallel()
			needs(t, "iptables-"+variant, "ip6tables-"+variant)
			dir := t.TempDir()
			broken := filepath.Join(dir, "broken")
			for _, name := range []string{"iptables-", "ip6tables-"} {
				for _, suffix := range []string{"", "-restore", "-save"} {
					name := name + variant + suffix
					writeExecutable(t, filepath.Join(dir, name), "[ -e "+broken+" ] && . "+broken+"\nPATH=/usr/sbin:/sbin:/usr/bin:/bin exec "+name+` "$@"`)
				}
			}
			c := newCluster(t)
			c.serve("pod-1", "pod-2")
			c.webOn("pod-1")
			p := c.runWith([]string{"PATH=" + dir + ":/usr/bin:/bin"}, "--proxy-mode=iptables", "--nodeport-addresses=primary", "--iptables-sync-period=1s", "--iptables-min-sync-period=10ms")
			p.follow()
			lines := len(c.saved(variant))
			pods := []string{"pod-1", "pod-2"}
			for i, how := range []struct{ name, script, says string }{
				{"an old version that cannot read", `echo "iptables-restore v1.8.4 (nf_tables): table 'filter' is incompatible, use 'nft' tool." >&2; exit 1`, "use mode nftables, or a newer version of iptables"},
				{"a crash", "kill -SEGV $$", "SIGSEGV"},
				{"a crash inside of a script", "exit 139", "SIGSEGV"},
				{"not found", "exit 127", "install iptables 1.8 or later"},
				{"an option that is not known", `echo "iptables-restore: unrecognized option '--wait'" >&2; exit 2`, "use iptables 1.6.2 or later"},
			} {
				was, next, logged := pods[i%2], pods[(i+1)%2], len(p.log.String())
				writeFile(t, broken, how.script+"\n")
				c.webOn(next)
				p.loggedSince(logged, "Sync failed", how.says)
				p.alive(how.name)
				c.leads(how.name, was)
				if err := os.Remove(broken); err != nil {
					t.Fatal(err)
				}
				p.follow()
				c.leads("after "+how.name, next)
				if now := len(c.saved(variant)); now != lines {
					t.Errorf("after %s there are %d chains and rules, want %d", how.name, now, lines)
				}
			}
		})
	}
}

func writeExecutable(t *testing.T, path, script string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestReadOnlySettings starts the proxy where the kernel's settings cannot be written, as in a container: it runs all the same, and says which it would have changed
// and how else that can be done.
func TestReadOnlySettings(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"nftables", "iptables-nft"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			needs(t, "unshare", "mount")
			if mode != "nftables" {
				needs(t, "iptables-nft", "ip6tables-nft")
			}
			path, err := binary()
			if err != nil {
				t.Fatal(err)
			}
			c := newCluster(t)
			c.serve("pod-1", "pod-2")
			c.webOn("pod-1")
			c.sh("nft add table ip loaded && nft add chain ip loaded c '{ type filter hook input priority 0; }' && nft add rule ip loaded c ct state new") // as connection tracking is in use
			args := append(c.usualArgs(), "--proxy-mode="+proxyOf(mode), "--nodeport-addresses=0.0.0.0/0", "--conntrack-tcp-timeout-established=1h11m")
			p := c.run(exec.Command("unshare", append([]string{"-m", "sh", "-c", `mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"`, "sh", path}, args...)...))
			p.follow()
			p.alive("with settings that are read-only")
			p.logged("setting of connection tracking stays as it is", "nf_conntrack_tcp_timeout_established", "read-only")
			if mode != "nftables" {
				p.logged("route_localnet", "have the setting made by the node, or set iptables.localhostNodePorts to false")
			}
			c.leads("with settings that are read-only", "pod-1")
			c.webOn("pod-2")
			p.follow()
			c.leads("after a change", "pod-2")
		})
	}
}
