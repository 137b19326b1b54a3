package preflight

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/config"
	"turnout/proxy/node"
)

// Options say what to look at.
type Options struct {
	// Modes are those to try in the kernel.
	Modes []config.Mode
	// File is the configuration file's name, "" for none; Data its contents.
	File string
	Data []byte
	// CNI is the folder with the configuration of CNI plugins.
	CNI string
	// Metrics is where a running proxy's metrics server answers; invalid for not to ask.
	Metrics netip.AddrPort
	// Path has the folders of the programs of iptables, as in the environment variable PATH, which is used if it is "".
	Path string
	// Timeout is how long such a program may take; 5 s if 0.
	Timeout time.Duration
	// Root is the folder that the node's files are in, "/" if "": a container may have them elsewhere.
	Root string
}

// gatherer collects facts.
type gatherer struct {
	Options
	facts   *Facts
	nft     bool // there may be rules of nftables
	protect bool // the tables of mode nftables are those of one process
}

// Gather looks at the node, in the network namespace of the calling thread, which the goroutine must be locked to if it is not that of the process. What
// cannot be looked at becomes one of the facts. It needs CAP_NET_ADMIN, and CAP_SYS_ADMIN for the trials.
//
// Nothing of the node changes. What a mode needs is tried in a network namespace of its own, but only if that cannot make the kernel load a
// module: modules are everybody's, and stay.
func Gather(ctx context.Context, o Options) *Facts {
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Root == "" {
		o.Root = "/"
	}
	g := &gatherer{Options: o, facts: &Facts{Families: families(), Scheduler: "rr", Trials: map[config.Mode][]Trial{}}}
	if o.File != "" {
		g.facts.File = &FileFacts{o.File, o.Data}
		s, _ := settingsOf(o.Data)
		g.facts.Scheduler, g.protect = cmp.Or(s.scheduler, "rr"), s.protect
	}
	g.kernel()
	g.rules()
	g.virtualServers()
	g.network()
	g.running(ctx)
	g.programs(ctx)
	for _, m := range o.Modes {
		g.trials(ctx, m)
	}
	return g.facts
}

// families are those that the kernel has.
func families() []proxy.Family {
	if node.Proc("/proc").IPv6() {
		return proxy.Families[:]
	}
	return []proxy.Family{proxy.IPv4}
}

// unseen notes what could not be looked at.
func (g *gatherer) unseen(what string, err error, remedy string) {
	g.facts.Unseen = append(g.facts.Unseen, Unseen{what, err, remedy})
}

// kernel finds out its release, its modules and its settings.
func (g *gatherer) kernel() {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		g.unseen("the kernel's release", err, "")
	}
	g.facts.Kernel = unix.ByteSliceToString(name.Release[:])
	g.facts.Modules = g.modules()
	g.facts.ReadOnlySysctl = errors.Is(unix.Access("/proc/sys/net/ipv4/ip_forward", unix.W_OK), unix.EROFS)
	if v, err := node.Proc("/proc").Read("net/ipv4/conf/all/route_localnet"); err == nil {
		g.facts.RouteLocalnet = v == "1"
	}
	g.facts.TCPLiberal = node.TCPLiberal(node.Proc("/proc"))
}

// modules reads the lists of modules.
func (g *gatherer) modules() Modules {
	read := func(name string) List {
		text, err := os.ReadFile(name)
		return List{text, err}
	}
	loaded := read("/proc/modules")
	if errors.Is(loaded.Err, fs.ErrNotExist) {
		m := NewModules(List{}, List{}, List{})
		m.Monolithic = true
		return m
	}
	folder := filepath.Join(g.Root, "lib/modules", g.facts.Kernel)
	if _, err := os.Stat(folder); err != nil { // not all systems have a link from the one to the other
		folder = filepath.Join(g.Root, "usr/lib/modules", g.facts.Kernel)
	}
	m := NewModules(loaded, read(filepath.Join(folder, "modules.builtin")), read(filepath.Join(folder, "modules.dep")))
	if v, err := node.Proc("/proc").Read("kernel/modules_disabled"); err == nil {
		m.Locked = v == "1"
	}
	return m
}

// can tells that asking the kernel for something of a module loads nothing.
func (g *gatherer) can(module string) bool { return len(g.facts.Modules.Idle([]string{module})) == 0 }

// there tells that the module may be in the kernel: otherwise there is nothing of it to be seen.
func (g *gatherer) there(module string) bool {
	switch p := g.facts.Modules.Of(module); {
	case p == Loaded, p == Builtin, p == Unknown && g.can(module):
		return true
	case p == Unknown:
		err := fmt.Errorf("it is not known whether module %s is part of the kernel or would be loaded: %w", module, g.facts.Modules.unread)
		g.unseen("what is in the kernel of "+module, err, "give the folder that has the node's lib/modules with --root")
	}
	return false
}

// network looks for what tells of the CNI plugin.
func (g *gatherer) network() {
	links, err := interfaceNames(netlink.LinkList)
	if err != nil {
		g.unseen("the network interfaces", err, "")
	}
	g.facts.Interfaces = links
	if g.facts.CNI, err = plugins(filepath.Join(g.Root, g.Options.CNI)); err != nil {
		g.unseen("the configuration of CNI plugins", err, "give its folder with --cni-dir")
	}
	_, err = os.Stat(filepath.Join(g.Root, "sys/fs/bpf/cilium/socketlb/links/cgroup/cil_sock4_connect"))
	g.facts.CiliumSockets = err == nil
}

// plugins lists the types of the CNI plugins in a folder, of *.conf, *.conflist and *.json. A folder that does not exist has none.
func plugins(folder string) (out []string, err error) {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	errs := []error{err}
	for _, e := range entries {
		if !slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name())) {
			continue
		}
		data, err := os.ReadFile(filepath.Join(folder, e.Name()))
		if err == nil {
			var types []string
			types, err = pluginTypes(data)
			out = append(out, types...)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read %s: %w", e.Name(), err))
		}
	}
	slices.Sort(out)
	return slices.Compact(out), errors.Join(errs...)
}
