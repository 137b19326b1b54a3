package iptables

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"turnout/proxy"
	"turnout/proxy/proxytest"
)

// shims makes a folder with programs that are shell scripts; `version` and `work` say what they do when asked for their version, and otherwise.
func shims(t *testing.T, names []string, version, work string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		script := "#!/bin/sh\nif [ \"$1\" = --version ]; then\n" + version + "\nexit\nfi\n" + work + "\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var nftNames = []string{"iptables-nft", "iptables-nft-restore", "iptables-nft-save"}

// Old, broken, hanging and missing programs give an error of the right kind, in time, that says what helps.
func TestBrokenPrograms(t *testing.T) {
	for _, row := range []struct {
		name          string
		version, work string
		kind          Kind
		want          []string // in the error
	}{
		{"1.8.4 that cannot read a table", `echo "iptables v1.8.4 (nf_tables)"`, `echo "iptables-nft-restore v1.8.4 (nf_tables): table 'filter' is incompatible, use 'nft' tool." >&2; exit 1`,
			Incompatible, []string{"1.8.4", "table 'filter'", "mode nftables"}},
		{"refuses everything", `echo "iptables v1.8.9 (nf_tables)"`, `echo "iptables-restore: line 3 failed" >&2; exit 1`, Refused, []string{"line 3 failed", "-m "}},
		{"crashes", `echo "iptables v1.8.9 (nf_tables)"`, `kill -SEGV $$`, Crashed, []string{"SIGSEGV", "newer"}},
		{"crashes in a wrapper", `echo "iptables v1.8.9 (nf_tables)"`, `exit 139`, Crashed, []string{"SIGSEGV"}},
		{"crashes at once", `kill -SEGV $$`, ``, Crashed, []string{"SIGSEGV"}},
		{"hangs", `echo "iptables v1.8.9 (nf_tables)"`, `sleep 60`, TimedOut, []string{"killed", "/run/xtables.lock"}},
		{"hangs at once, with a child that keeps the output open", `sleep 60 & sleep 60`, ``, TimedOut, []string{"killed"}},
		{"is too old", `echo "iptables v1.4.21"`, ``, TooOld, []string{"1.4.21", "1.6.2 or later"}},
		{"has no version", `echo`, ``, TooOld, []string{"too old"}},
		{"is locked out", `echo "iptables v1.8.9 (nf_tables)"`, `echo "Another app is currently holding the xtables lock. Perhaps you want to use the -w option?" >&2; exit 4`, Locked, []string{"fuser"}},
		{"may not", `echo "iptables v1.8.9 (nf_tables)"`, `echo "iptables-restore v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)" >&2; exit 4`, NotPermitted, []string{"CAP_NET_ADMIN"}},
		{"may not send as much", `echo "iptables v1.8.9 (nf_tables)"`, `printf 'sendmsg() failed: Message too long\niptables-nft-restore: line 6001 failed: Message too long.\n' >&2; exit 1`,
			NoRoom, []string{"Message too long", "net.core.wmem_max"}},
		{"does not know an option", `echo "iptables v1.8.9 (nf_tables)"`, `echo "iptables-restore: unrecognized option '--wait'" >&2; exit 2`, TooOld, []string{"--wait"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			proxytest.InNamespace(t, func() {
				start := time.Now()
				_, err := New(t.Context(), Options{Family: proxy.IPv4, Variant: NFT, Path: shims(t, nftNames, row.version, row.work), Timeout: 500 * time.Millisecond})
				if err == nil || kindOf(err) != row.kind {
					t.Fatalf("kind %d, want %d: %v", kindOf(err), row.kind, err)
				}
				for _, want := range row.want {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%q is not in: %v", want, err)
					}
				}
				if took := time.Since(start); took > 20*time.Second {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

// A lock that another process holds all the time is told, and the rules stay; when it is given back, they follow.
func TestLock(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	t.Setenv("XTABLES_LOCKFILE", file) // rather than the machine's
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	proxytest.InNamespace(t, func() {
		o := Options{Family: proxy.IPv4, Variant: Legacy}
		b, err := New(t.Context(), o)
		if kindOf(err) == Missing {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		_, err = b.Apply(t.Context(), proxytest.NewState(proxy.IPv4))
		if holder := fmt.Sprintf("it is held by process %d (", os.Getpid()); kindOf(err) != Locked || !strings.Contains(err.Error(), holder) {
			t.Errorf("%v; want it to have %q", err, holder)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
			t.Fatal(err)
		}
		mustApply(t, b, proxytest.NewState(proxy.IPv4))
	})
}

// Of the kernel's list of locks, those on the file that are held count.
func TestHolders(t *testing.T) {
	const locks = `1: FLOCK  ADVISORY  WRITE 708 00:19:1283 0 EOF
1: -> FLOCK  ADVISORY  WRITE 709 00:19:1283 0 EOF
2: POSIX  ADVISORY  READ 710 fe:01:1283 0 EOF
3: FLOCK  ADVISORY  WRITE 0 00:19:1283 0 EOF
4: OFDLCK ADVISORY  WRITE -1 00:19:1283 0 EOF
5: FLOCK  ADVISORY  READ 711 00:19:1283 0 EOF
6: FLOCK  ADVISORY  WRITE 712 00:19:128 0 EOF
7: FLOCK
`
	file := unix.Stat_t{Dev: unix.Mkdev(0, 0x19), Ino: 1283}
	if diff := cmp.Diff([]int{708, 711}, holders(locks, &file)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestMissingPrograms(t *testing.T) {
	for _, v := range []Variant{"", NFT, Legacy} {
		_, err := New(t.Context(), Options{Family: proxy.IPv6, Variant: v, Path: t.TempDir()})
		if kindOf(err) != Missing || !strings.Contains(err.Error(), "ip6tables-") || !strings.Contains(err.Error(), "mode nftables") {
			t.Errorf("%q: %v", v, err)
		}
	}
}

// A program that works at first and then breaks leaves the rules as they are; when it works again, they follow.
func TestProgramBreaksLater(t *testing.T) {
	eachVariant(t, func(t *testing.T, o Options) {
		proxytest.InNamespace(t, func() {
			base := "iptables-"
			if o.Family == proxy.IPv6 {
				base = "ip6tables-"
			}
			broken := filepath.Join(t.TempDir(), "broken")
			o.Path = t.TempDir()
			o.Timeout = time.Second
			for _, suffix := range []string{"", "-restore", "-save"} {
				script := "#!/bin/sh\n[ -e " + broken + " ] && . " + broken + "\nPATH=/usr/sbin:/sbin:/usr/bin:/bin exec " + base + string(o.Variant) + suffix + ` "$@"` + "\n"
				if err := os.WriteFile(filepath.Join(o.Path, base+string(o.Variant)+suffix), []byte(script), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			b := newKernelBackend(t, o)
			one := proxytest.NewState(o.Family)
			mustApply(t, b, one)
			before := saved(t, o)
			two := proxytest.NewState(o.Family)
			two.HealthChecks = two.HealthChecks.Set(proxy.ServiceName{Namespace: "ns", Name: "web"}, proxy.HealthCheck{Port: 32000})
			for _, how := range []string{"kill -SEGV $$", "sleep 60", "exit 1", "echo nonsense; exit 139"} {
				if err := os.WriteFile(broken, []byte(how+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
				if _, err := b.Apply(t.Context(), two); err == nil {
					t.Errorf("%s: no error", how)
				}
				if got := saved(t, o); strings.Join(got, "\n") != strings.Join(before, "\n") {
					t.Errorf("%s: the rules have changed", how)
				}
			}
			if err := os.Remove(broken); err != nil {
				t.Fatal(err)
			}
			mustApply(t, b, two)
			if damage, err := b.Check(t.Context()); damage != "" || err != nil {
				t.Errorf("damage %q, %v", damage, err)
			}
			if text := strings.Join(saved(t, o), "\n"); !strings.Contains(text, "--dport 32000 -j ACCEPT") {
				t.Errorf("the rule of the health check is not there:\n%s", text)
			}
		})
	})
}

// The variant is that of kubelet's hint, or else of the more rules.
func TestChoice(t *testing.T) {
	for _, row := range []struct {
		name     string
		commands []string
		want     Variant
		reason   string
	}{
		{"nothing", nil, NFT, "no hint of kubelet"},
		{"hint in nft", []string{"iptables-nft -t mangle -N KUBE-IPTABLES-HINT", "iptables-legacy -t mangle -N KUBE-KUBELET-CANARY"}, NFT, "KUBE-IPTABLES-HINT"},
		{"hint in legacy", []string{"iptables-legacy -t mangle -N KUBE-IPTABLES-HINT", "iptables-nft -t nat -N X", "iptables-nft -t nat -N Y"}, Legacy, "KUBE-IPTABLES-HINT"},
		{"canary in legacy", []string{"iptables-legacy -t mangle -N KUBE-KUBELET-CANARY"}, Legacy, "KUBE-KUBELET-CANARY"},
		{"more rules in legacy", []string{"iptables-legacy -A INPUT -j ACCEPT", "iptables-legacy -A INPUT -j ACCEPT", "iptables-nft -A INPUT -j ACCEPT"}, Legacy, "2 chains and rules"},
		{"more rules in nft", []string{"iptables-legacy -A INPUT -j ACCEPT", "iptables-nft -N X", "iptables-nft -A X -j ACCEPT"}, NFT, "1 chains and rules of variant legacy"},
		{"as many rules", []string{"iptables-legacy -A INPUT -j ACCEPT", "iptables-nft -A INPUT -j ACCEPT"}, NFT, "not fewer of variant nft"},
		{"tables of legacy without rules", []string{"iptables-legacy -L"}, NFT, "no hint"},
	} {
		t.Run(row.name, func(t *testing.T) {
			proxytest.InNamespace(t, func() {
				for _, c := range row.commands {
					run(t, Options{}, c)
				}
				before, err := LegacyTables(proxy.IPv4)
				if err != nil {
					t.Fatal(err)
				}
				b, err := Open(t.Context(), Options{Family: proxy.IPv4})
				if err != nil {
					t.Skipf("needs iptables: %v", err)
				}
				if c := b.Choice(); c.Variant != row.want || !strings.Contains(c.String(), row.reason) {
					t.Errorf("%v, want %s because of %s", c, row.want, row.reason)
				}
				after, err := LegacyTables(proxy.IPv4)
				if err != nil || len(after) != len(before) {
					t.Errorf("tables of iptables-legacy: %v, %v before; %v", after, before, err)
				}
			})
		})
	}
}

// Where the variant nft does not work, as on a kernel without it, legacy is used, and the reason is told.
func TestFallBack(t *testing.T) {
	path := shims(t, nftNames, `echo "iptables v1.8.9 (nf_tables)"`, `echo "iptables: Could not fetch rule set generation id: Invalid argument" >&2; exit 4`) + ":/usr/sbin:/sbin"
	proxytest.InNamespace(t, func() {
		b, err := New(t.Context(), Options{Family: proxy.IPv4, Path: path})
		if kindOf(err) == Missing {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		if c := b.Choice(); c.Variant != Legacy || !strings.Contains(c.Reason, "Invalid argument") {
			t.Errorf("%v", c)
		}
		mustApply(t, b, proxytest.NewState(proxy.IPv4))
		if _, err := New(t.Context(), Options{Family: proxy.IPv4, Path: path, Variant: NFT}); kindOf(err) != Refused {
			t.Errorf("asked for nft: %v", err)
		}
	})
}

// With programs of one variant only, that is it, also if they have no more in their names than "iptables".
func TestOnlyVariant(t *testing.T) {
	for _, row := range []struct {
		names   []string
		version string
		want    Variant
	}{
		{nftNames, "iptables v1.8.9 (nf_tables)", NFT},
		{[]string{"iptables", "iptables-restore", "iptables-save"}, "iptables v1.8.9 (nf_tables)", NFT},
		{[]string{"iptables", "iptables-restore", "iptables-save"}, "iptables v1.8.9 (legacy)", Legacy},
		{[]string{"iptables", "iptables-restore", "iptables-save"}, "iptables v1.6.2", Legacy},
	} {
		b, err := Open(t.Context(), Options{Family: proxy.IPv4, Path: shims(t, row.names, `echo "`+row.version+`"`, "exit 1")})
		if err != nil || b.Choice().Variant != row.want {
			t.Errorf("%v of %q: %v", row.names, row.version, err)
		}
	}
}
