package leftovers_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"turnout/proxy"
	"turnout/proxy/iptables/nfacct"
	"turnout/proxy/leftovers"
	"turnout/proxy/proxytest"
)

// sets are what kube-proxy makes in mode ipvs, for IPv4 and IPv6, and what others have: kube-router, and one whose name only looks alike. Lines
// with an exclamation mark must be gone afterwards.
const sets = `!create KUBE-LOOP-BACK hash:ip,port,ip
!add KUBE-LOOP-BACK 10.244.1.2,tcp:8080,10.244.1.2
!create KUBE-CLUSTER-IP hash:ip,port
!add KUBE-CLUSTER-IP 10.96.0.1,tcp:443
!create KUBE-EXTERNAL-IP hash:ip,port
!create KUBE-EXTERNAL-IP-LOCAL hash:ip,port
!create KUBE-LOAD-BALANCER hash:ip,port
!create KUBE-LOAD-BALANCER-FW hash:ip,port
!create KUBE-LOAD-BALANCER-LOCAL hash:ip,port
!create KUBE-LOAD-BALANCER-SOURCE-CIDR hash:ip,port,net
!create KUBE-LOAD-BALANCER-SOURCE-IP hash:ip,port,ip
!create KUBE-NODE-PORT-TCP bitmap:port range 0-65535
!add KUBE-NODE-PORT-TCP 30080
!create KUBE-NODE-PORT-LOCAL-TCP bitmap:port range 0-65535
!create KUBE-NODE-PORT-UDP bitmap:port range 0-65535
!create KUBE-NODE-PORT-LOCAL-UDP bitmap:port range 0-65535
!create KUBE-NODE-PORT-SCTP-HASH hash:ip,port
!create KUBE-NODE-PORT-LOCAL-SCTP-HASH hash:ip,port
!create KUBE-HEALTH-CHECK-NODE-PORT bitmap:port range 0-65535
!create KUBE-IPVS-IPS hash:ip
!create KUBE-6-LOOP-BACK hash:ip,port,ip family inet6
!create KUBE-6-CLUSTER-IP hash:ip,port family inet6
!create KUBE-6-EXTERNAL-IP hash:ip,port family inet6
!create KUBE-6-EXTERNAL-IP-LOCAL hash:ip,port family inet6
!create KUBE-6-LOAD-BALANCER hash:ip,port family inet6
!create KUBE-6-LOAD-BALANCER-FW hash:ip,port family inet6
!create KUBE-6-LOAD-BALANCER-LOCAL hash:ip,port family inet6
!create KUBE-6-LOAD-BALANCER-SOURCE-CID hash:ip,port,net family inet6
!create KUBE-6-LOAD-BALANCER-SOURCE-IP hash:ip,port,ip family inet6
!create KUBE-6-NODE-PORT-TCP bitmap:port range 0-65535
!create KUBE-6-NODE-PORT-LOCAL-TCP bitmap:port range 0-65535
!create KUBE-6-NODE-PORT-UDP bitmap:port range 0-65535
!create KUBE-6-NODE-PORT-LOCAL-UDP bitmap:port range 0-65535
!create KUBE-6-NODE-PORT-SCTP-HASH hash:ip,port family inet6
!create KUBE-6-NODE-PORT-LOCAL-SCTP-HAS hash:ip,port family inet6
!create KUBE-6-HEALTH-CHECK-NODE-PORT bitmap:port range 0-65535
!create KUBE-6-IPVS-IPS hash:ip family inet6
create KUBE-SRC-AAAAAAAAAAAAAAAA hash:ip
add KUBE-SRC-AAAAAAAAAAAAAAAA 10.244.1.3
create KUBE-DST-AAAAAAAAAAAAAAAA hash:ip
create KUBE-CLUSTER-IPS hash:ip
create cali40all-ipam-pools hash:net
`

// ipvsRules are what kube-proxy makes in mode ipvs, with $6 where names of sets differ for IPv6.
const ipvsRules = `*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-LOAD-BALANCER - [0:0]
:KUBE-MARK-MASQ - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-SERVICES -m set --match-set KUBE-$6LOAD-BALANCER dst,dst -j KUBE-LOAD-BALANCER
-A KUBE-SERVICES -m set --match-set KUBE-$6CLUSTER-IP src,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
-A KUBE-SERVICES -m set --match-set KUBE-$6CLUSTER-IP dst,dst -j ACCEPT
-A KUBE-NODE-PORT -p tcp -m set --match-set KUBE-$6NODE-PORT-TCP dst -j KUBE-MARK-MASQ
-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ
-A KUBE-POSTROUTING -m set --match-set KUBE-$6LOOP-BACK dst,dst,src -j MASQUERADE
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
COMMIT
*filter
:KUBE-FORWARD - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SOURCE-RANGES-FIREWALL - [0:0]
:KUBE-IPVS-FILTER - [0:0]
:KUBE-IPVS-OUT-FILTER - [0:0]
-A INPUT -j KUBE-IPVS-FILTER
-A INPUT -j KUBE-PROXY-FIREWALL
-A INPUT -j KUBE-NODE-PORT
-A FORWARD -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A OUTPUT -j KUBE-IPVS-OUT-FILTER
-A KUBE-NODE-PORT -m set --match-set KUBE-$6HEALTH-CHECK-NODE-PORT dst -j ACCEPT
-A KUBE-PROXY-FIREWALL -m set --match-set KUBE-$6LOAD-BALANCER-FW dst,dst -j KUBE-SOURCE-RANGES-FIREWALL
-A KUBE-SOURCE-RANGES-FIREWALL -j DROP
-A KUBE-IPVS-FILTER -m set --match-set KUBE-$6LOAD-BALANCER dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set KUBE-$6IPVS-IPS dst -j REJECT
COMMIT
`

// loadIPVS has the kernel take all of that, or only what others have.
func loadIPVS(t *testing.T, variant string, kubeProxy bool) {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(sets) {
		if name, is := strings.CutPrefix(line, "!"); !is || kubeProxy {
			b.WriteString(name)
		}
	}
	run(t, b.String(), "ipset", "restore")
	for f, infix := range map[proxy.Family]string{proxy.IPv4: "", proxy.IPv6: "6-"} {
		if kubeProxy {
			run(t, strings.ReplaceAll(ipvsRules, "$6", infix), program(variant, f, "-restore"), "--noflush")
		}
	}
}

// ipsets is what ipset save shows, in order.
func ipsets(t *testing.T) []string {
	t.Helper()
	var out []string
	for line := range strings.Lines(run(t, "", "ipset", "save")) {
		line, _, _ = strings.Cut(line, " initval") // a random number
		out = append(out, strings.TrimSpace(line))
	}
	slices.Sort(out)
	return out
}

// find looks for everything.
func find(t *testing.T, s leftovers.Scope) *leftovers.Remains {
	t.Helper()
	found, err := leftovers.Find(s, proxy.Families[:]...)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// namesOf are the objects of a kind.
func namesOf(kind string, objects []leftovers.Object) (out []string) {
	for _, o := range objects {
		if o.Kind == kind {
			out = append(out, o.Name)
		}
	}
	slices.Sort(out)
	return out
}

// Exactly kube-proxy's sets go, once its rules are gone, whichever of the variants these were made with.
func TestKernelRemoveIPSets(t *testing.T) {
	for _, variant := range []string{"nft", "legacy"} {
		t.Run(variant, func(t *testing.T) {
			var want []string
			proxytest.InNamespace(t, func() {
				loadIPVS(t, variant, false)
				want = ipsets(t)
			})
			proxytest.InNamespace(t, func() {
				loadIPVS(t, variant, true)
				// A proxy of mode ipvs removes the rules and the sets, but takes over the virtual servers.
				found := find(t, leftovers.Scope{Iptables: true, IPVSRules: true})
				if got := namesOf("ipset", found.Removable()); len(got) != 34 {
					t.Errorf("%d sets are said to be removed, want 34: %v", len(got), got)
				}
				if err := found.Remove(); err != nil {
					t.Error(err)
				}
				if d := cmp.Diff(want, ipsets(t)); d != "" {
					t.Errorf("sets: -want +got:\n%s", d)
				}
				if again := find(t, all); len(again.Removable()) != 0 || len(again.Kept()) != 0 {
					t.Errorf("found again: %v, kept: %v", again.Removable(), again.Kept())
				}
			})
		})
	}
}

// A proxy of mode iptables removes what only mode ipvs has, also as long as the chains that both modes have are those of mode ipvs, and lead there.
func TestKernelRemoveIPVSRulesAlone(t *testing.T) {
	for _, variant := range []string{"nft", "legacy"} {
		t.Run(variant, func(t *testing.T) {
			proxytest.InNamespace(t, func() {
				loadIPVS(t, variant, true)
				found := find(t, leftovers.Scope{IPVSRules: true})
				if err := found.Remove(); err == nil || !strings.Contains(err.Error(), "destroy ipset KUBE-CLUSTER-IP: ") {
					t.Errorf("sets that rules use: %v", err)
				}
				if len(found.Kept()) != 0 {
					t.Errorf("kept: %v", found.Kept())
				}
				text := strings.Join(save(t, variant, proxy.IPv4), "\n")
				for _, gone := range []string{"KUBE-LOAD-BALANCER -", "j KUBE-LOAD-BALANCER", ":KUBE-NODE-PORT", "KUBE-IPVS-FILTER", "KUBE-SOURCE-RANGES-FIREWALL"} {
					if strings.Contains(text, gone) {
						t.Errorf("%s is left:\n%s", gone, text)
					}
				}
				for _, there := range []string{":KUBE-SERVICES -", "-j KUBE-SERVICES", "KUBE-CLUSTER-IP dst,dst -j ACCEPT", "-A KUBE-POSTROUTING"} {
					if !strings.Contains(text, there) {
						t.Errorf("%s is gone:\n%s", there, text)
					}
				}
				if err := find(t, leftovers.Scope{Iptables: true}).Remove(); err != nil {
					t.Error(err)
				}
				if err := find(t, leftovers.Scope{IPVSRules: true}).Remove(); err != nil {
					t.Error(err)
				}
				if left := find(t, all); len(left.Removable())+len(left.Kept()) != 0 {
					t.Errorf("left: %v, kept: %v", left.Removable(), left.Kept())
				}
			})
		})
	}
}

// A set that another program uses stays, and is named with what helps.
func TestKernelKeepIPSetsThatOthersUse(t *testing.T) {
	proxytest.InNamespace(t, func() {
		loadIPVS(t, "nft", true)
		run(t, "*filter\n:OTHER - [0:0]\n-A FORWARD -j OTHER\n-A OTHER -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT\nCOMMIT\n", program("nft", proxy.IPv4, "-restore"), "--noflush")
		run(t, "create all list:set\nadd all KUBE-6-CLUSTER-IP\n", "ipset", "restore")
		err := find(t, all).Remove()
		for _, name := range []string{"KUBE-CLUSTER-IP", "KUBE-6-CLUSTER-IP"} {
			if want := "destroy ipset " + name + ": a rule or a set of another program refers to it"; err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("the error is %q, want in it %q", err, want)
			}
		}
		var kept []string
		for _, k := range find(t, all).Kept() {
			kept = append(kept, k.String())
		}
		slices.Sort(kept)
		why := " (a rule or a set of another program refers to it; when that is gone: ipset destroy "
		if d := cmp.Diff([]string{"ipset: KUBE-6-CLUSTER-IP" + why + "KUBE-6-CLUSTER-IP)", "ipset: KUBE-CLUSTER-IP" + why + "KUBE-CLUSTER-IP)"}, kept); d != "" {
			t.Errorf("kept: -want +got:\n%s", d)
		}
		if left := find(t, all).Removable(); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
		if err := find(t, all).Remove(); err != nil {
			t.Errorf("what is kept is no error later: %v", err)
		}
		// The remedy helps.
		run(t, "", program("nft", proxy.IPv4, ""), "-F", "OTHER")
		run(t, "", "ipset", "destroy", "all")
		if err := find(t, all).Remove(); err != nil {
			t.Error(err)
		}
		if got := find(t, all); len(got.Removable())+len(got.Kept()) != 0 {
			t.Errorf("left at the end: %v, %v", got.Removable(), got.Kept())
		}
	})
}

// Sets of mode ipvs are out of scope where only mode iptables is in it, and without any there is nothing to do.
func TestKernelIPSetsOutOfScope(t *testing.T) {
	if _, err := exec.LookPath("ipset"); err != nil {
		t.Skipf("needs the command ipset: %v", err)
	}
	proxytest.InNamespace(t, func() {
		if got := find(t, all).Removable(); len(got) != 0 {
			t.Errorf("in an empty namespace: %v", got)
		}
		run(t, "create KUBE-CLUSTER-IP hash:ip,port\n", "ipset", "restore")
		if got := find(t, leftovers.Scope{Iptables: true}).Removable(); len(got) != 0 {
			t.Errorf("in scope iptables: %v", got)
		}
		if got := namesOf("ipset", find(t, all).Removable()); !slices.Equal(got, []string{"KUBE-CLUSTER-IP"}) {
			t.Errorf("in scope: %v", got)
		}
	})
}

// The packet counters of mode iptables go once the rules that count with them are gone, and those that another program counts with stay and are told.
func TestKernelRemoveCounters(t *testing.T) {
	for _, variant := range []string{"nft", "legacy"} {
		t.Run(variant, func(t *testing.T) {
			proxytest.InNamespace(t, func() {
				for _, name := range []string{"ct_state_invalid_dropped_pkts", "localhost_nps_accepted_pkts", "another"} {
					if err := nfacct.Ensure(name); err != nil {
						t.Skipf("needs a kernel with packet counters: %v", err)
					}
				}
				const rules = `*filter
:KUBE-FORWARD - [0:0]
:OTHER - [0:0]
-A FORWARD -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -m nfacct --nfacct-name ct_state_invalid_dropped_pkts -j DROP
-A OTHER -m nfacct --nfacct-name localhost_nps_accepted_pkts -j ACCEPT
COMMIT
`
				run(t, rules, program(variant, proxy.IPv4, "-restore"), "--noflush")
				if got := namesOf("counter", find(t, all).Removable()); len(got) != 2 {
					t.Errorf("found %v, want two", got)
				}
				err := find(t, all).Remove()
				if want := "delete the packet counter localhost_nps_accepted_pkts: a rule of another program counts with it"; err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("the error is %q, want in it %q", err, want)
				}
				if got := namesOf("counter", find(t, all).Removable()); !slices.Equal(got, []string{"localhost_nps_accepted_pkts"}) {
					t.Errorf("left: %v", got)
				}
				run(t, "", program(variant, proxy.IPv4, ""), "-F", "OTHER")
				if err := find(t, all).Remove(); err != nil {
					t.Error(err)
				}
				if _, err := nfacct.Packets("another"); err != nil {
					t.Errorf("the counter of another program: %v", err)
				}
				if left := find(t, all).Removable(); len(left) != 0 {
					t.Errorf("left: %v", left)
				}
			})
		})
	}
}
