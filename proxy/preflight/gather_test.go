package preflight

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"turnout/proxy"
	"turnout/proxy/config"
	"turnout/proxy/iptables/nfacct"
	"turnout/proxy/nftables/compat"
	"turnout/proxy/proxytest"
)

func TestMain(m *testing.M) { os.Exit(proxytest.Main(m)) }

// loadedModules are the names of those, sorted; none if the kernel has no modules.
func loadedModules() (out []string) {
	text, _ := os.ReadFile("/proc/modules") // what is not there lists none
	for l := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(l, " ")
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func gather(t *testing.T, o Options) *Facts {
	t.Helper()
	if o.Modes == nil {
		o.Modes = Modes
	}
	o.CNI = "nowhere"
	return Gather(t.Context(), o)
}

// To look changes nothing, not even for a moment: nftables counts its transactions, and modules stay loaded. It goes first, when others have not
// yet had the kernel load anything.
func TestKernelReadOnly(t *testing.T) {
	proxytest.InNamespace(t, func() {
		modules := loadedModules()
		f := gather(t, Options{})
		if now := loadedModules(); !slices.Equal(now, modules) {
			t.Errorf("modules were loaded:\n%s\nthen\n%s", modules, now)
		}
		for _, u := range f.Unseen {
			t.Errorf("cannot be seen: %s: %v", u.What, u.Err)
		}
	})
	proxytest.InNamespace(t, func() {
		proxytest.Command(t, "iptables-nft -t nat -N KUBE-SERVICES")
		proxytest.Command(t, "iptables-nft -t nat -A POSTROUTING -j RETURN")
		proxytest.Command(t, "nft add rule ip nat POSTROUTING ct state new accept")
		proxytest.Command(t, "iptables-legacy -t nat -N KUBE-SERVICES")
		before, err := compat.Generation()
		if err != nil {
			t.Fatal(err)
		}
		dump := func() string {
			return proxytest.Command(t, "nft -a list ruleset") + proxytest.Command(t, "iptables-legacy -t nat -S") + proxytest.Command(t, "cat /proc/net/ip_tables_names") + proxytest.Command(t, "ip -o link")
		}
		rules, modules := dump(), loadedModules()
		f := gather(t, Options{})
		if len(f.Tables[proxy.IPv4]) == 0 || len(f.Legacy[proxy.IPv4]) != 1 || len(f.Strange[proxy.IPv4]) != 1 {
			t.Errorf("%d tables, %d of iptables-legacy, %d strange rules", len(f.Tables[proxy.IPv4]), len(f.Legacy[proxy.IPv4]), len(f.Strange[proxy.IPv4]))
		}
		if now := dump(); now != rules {
			t.Errorf("before:\n%s\nafter:\n%s", rules, now)
		}
		if now := loadedModules(); !slices.Equal(now, modules) {
			t.Errorf("modules were loaded:\n%s\nthen\n%s", modules, now)
		}
		if after, err := compat.Generation(); err != nil || after != before {
			t.Errorf("generation %d, then %d, %v", before, after, err)
		}
	})
}

// A node where the mode has been used has its modules: then it is tried. The trial's outcome is that of opening the mode.
func TestKernelTrials(t *testing.T) {
	proxytest.InNamespace(t, func() {
		proxytest.Command(t, "iptables-nft -t nat -N KUBE-SERVICES")
		for m, trials := range gather(t, Options{}).Trials {
			for _, trial := range trials {
				switch {
				case trial.Unseen != nil, len(trial.Idle) > 0:
					t.Logf("%s for %s was not tried: %v, %v", m, trial.Family, trial.Unseen, trial.Idle)
				case trial.Err != nil && m != config.IPVS:
					t.Errorf("%s for %s: %v", m, trial.Family, trial.Err)
				case trial.Err != nil && !strings.Contains(trial.Err.Error(), "ip_vs"):
					t.Errorf("%s for %s: %v; want it to name the module", m, trial.Family, trial.Err)
				}
			}
		}
	})
}

// Packet counters are read if there are any.
func TestKernelCounted(t *testing.T) {
	proxytest.InNamespace(t, func() {
		if f := gather(t, Options{Modes: []config.Mode{}}); len(f.Counted) > 0 || len(f.Unseen) > 0 {
			t.Errorf("without counters: %v, %v", f.Counted, f.Unseen)
		}
		if err := nfacct.Ensure(invalidCounter); err != nil {
			t.Skipf("the kernel has no packet counters: %v", err)
		}
		f := gather(t, Options{Modes: []config.Mode{}})
		if n, ok := f.Counted[invalidCounter]; !ok || n != 0 || len(f.Counted) != 1 {
			t.Errorf("%v, %v; want only %s", f.Counted, f.Unseen, invalidCounter)
		}
	})
}

// Programs that do not work are told by kind.
func TestKernelPrograms(t *testing.T) {
	shim := func(t *testing.T, script string) string {
		dir := t.TempDir()
		for _, name := range []string{"iptables", "ip6tables"} {
			for _, end := range []string{"", "-restore", "-save"} {
				if err := os.WriteFile(filepath.Join(dir, name+end), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
		}
		return dir
	}
	for _, test := range []struct {
		name, script string
		timeout      time.Duration
		want         string
	}{
		{"none", "", 0, "this node has no programs of iptables: iptables-nft and ip6tables-nft cannot be run"},
		{"old", "echo iptables v1.4.21", time.Minute, "1.4.21 is too old"},
		{"crashing", "kill -SEGV $$", time.Minute, "crashed (signal 11"},
		{"hanging", "sleep 60", 100 * time.Millisecond, "did not end in time and was killed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			if test.script != "" {
				dir = shim(t, test.script)
			}
			proxytest.InNamespace(t, func() {
				r := Judge(gather(t, Options{Modes: []config.Mode{config.IPTables}, Path: dir, Timeout: test.timeout}), config.IPTables)
				var text []string
				for _, f := range r.Findings {
					if f.Level == Blocked {
						text = append(text, f.String())
					}
				}
				if len(text) == 0 || !strings.Contains(text[0], test.want) || !strings.Contains(text[0], "; remedy: ") {
					t.Errorf("%q; want %q and a remedy", text, test.want)
				}
			})
		})
	}
}

// A proxy that runs is asked for its mode; other servers, and none, are not taken for one.
func TestRunning(t *testing.T) {
	answer := "iptables"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) }))
	defer server.Close()
	at := netip.MustParseAddrPort(server.Listener.Addr().String())
	if c, err := net.Dial("tcp", at.String()); err != nil {
		t.Skipf("needs a loopback interface that is up: %v", err)
	} else if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"iptables", "", ""} {
		g := &gatherer{Options: Options{Metrics: at}, facts: &Facts{}}
		g.running(t.Context())
		if g.facts.Running != want {
			t.Errorf("after the answer %q: %q", answer, g.facts.Running)
		}
		if answer == "<html>" {
			server.Close()
		}
		answer = "<html>"
	}
}

// Interfaces are listed again while changes interrupt that, but not for ever.
func TestInterfaceNames(t *testing.T) {
	for _, test := range []struct {
		interruptions int
		want          error
	}{{0, nil}, {listAttempts - 1, nil}, {listAttempts, netlink.ErrDumpInterrupted}} {
		asked := 0
		names, err := interfaceNames(func() ([]netlink.Link, error) {
			links := []netlink.Link{&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}}}
			if asked++; asked <= test.interruptions {
				return links, netlink.ErrDumpInterrupted
			}
			return append(links, &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "kilo0"}}), nil
		})
		want := []string{"eth0", "kilo0"}
		if test.want != nil {
			want = want[:1]
		}
		if !slices.Equal(names, want) || !errors.Is(err, test.want) || asked > listAttempts {
			t.Errorf("after %d interruptions: %v, %v; want %v, %v", test.interruptions, names, err, want, test.want)
		}
	}
}

// The CNI plugins' files are read; one that cannot be read does not hide the others.
func TestPlugins(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"10-calico.conflist": `{"plugins": [{"type": "calico"}, {"type": "portmap"}]}`, "20.conf": `{"type": "calico"}`, "30.json": "{", "notes.txt": "{"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := plugins(dir)
	if !slices.Equal(got, []string{"calico", "portmap"}) || err == nil || !strings.Contains(err.Error(), "30.json") || strings.Contains(err.Error(), "notes") {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := plugins(filepath.Join(dir, "none")); got != nil || err != nil {
		t.Errorf("%v, %v without a folder", got, err)
	}
}
