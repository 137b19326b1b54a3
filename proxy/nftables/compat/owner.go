package compat

import (
	"strings"

	lib "github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Names that tell whose a rule is. What begins so is a chain, a comment or a log prefix; interfaces are apart, since their names are shorter.
var (
	namesOf = [...]struct{ prefix, program string }{
		{"cali:", "Calico"}, {"cali-", "Calico"}, {"ts-", "Tailscale"}, {"netbird", "NetBird"}, {"docker", "Docker"}, {"cni-", "a CNI plugin"}, {"kube-router-", "kube-router"},
		{"kube-pod-fw-", "kube-router"}, {"kube-nwplcy-", "kube-router"}, {"kube-firewall", "kubelet"}, {"kube-kubelet-", "kubelet"}, {"cilium", "Cilium"},
		{"antrea-", "Antrea"}, {"flannel", "flannel"}, {"kilo-", "Kilo"}, {"ufw", "ufw"}, {"f2b-", "fail2ban"}, {"libvirt_", "libvirt"}, {"firewalld", "firewalld"},
		{"input_zones", "firewalld"}, {"forward_in_zones", "firewalld"}, {"forward_out_zones", "firewalld"}, {"prerouting_zones", "firewalld"}, {"postrouting_zones", "firewalld"},
	}
	interfacesOf = [...]struct{ prefix, program string }{
		{"wt", "NetBird"}, {"tailscale", "Tailscale"}, {"docker", "Docker"}, {"cali", "Calico"}, {"cilium", "Cilium"}, {"flannel", "flannel"}, {"antrea", "Antrea"},
		{"kilo", "Kilo"}, {"kube-bridge", "kube-router"}, {"virbr", "libvirt"}, {"podman", "Podman"}, {"zt", "ZeroTier"}, {"wg", "WireGuard"},
	}
)

// owner guesses from the names in a rule which program wrote it, since the kernel does not keep that; "" if nothing tells.
func (r *Rule) owner(rule *lib.Rule) string {
	names := []string{r.Comment, r.Chain, r.Jump}
	for i, e := range rule.Exprs {
		switch e := e.(type) {
		case *expr.Log:
			names = append(names, string(e.Data))
		case *expr.Meta:
			if name := interfaceOf(e, rule.Exprs[i+1:]); name != "" {
				for _, known := range interfacesOf {
					if strings.HasPrefix(name, known.prefix) {
						return known.program
					}
				}
			}
		}
	}
	for _, name := range names {
		for _, known := range namesOf {
			if strings.HasPrefix(strings.ToLower(name), known.prefix) {
				return known.program
			}
		}
	}
	return ""
}

// interfaceOf is the interface that a rule asks for, by what follows the question; "" if it asks for something else.
func interfaceOf(m *expr.Meta, next []expr.Any) string {
	if (m.Key != expr.MetaKeyIIFNAME && m.Key != expr.MetaKeyOIFNAME) || len(next) == 0 {
		return ""
	}
	if c, ok := next[0].(*expr.Cmp); ok {
		return strings.TrimRight(string(c.Data), "\x00")
	}
	return ""
}
