package preflight

import (
	"turnout/proxy"
	"turnout/proxy/config"
	"turnout/proxy/iptables"
	"turnout/proxy/leftovers"
	"turnout/proxy/nftables/compat"
	"turnout/proxy/nftables/survey"
)

// Facts are what was seen on the node.
type Facts struct {
	Kernel   string // release
	Families []proxy.Family
	Modules  Modules
	// Trials of the modes that were asked for, one a family; of mode iptables only where there are programs.
	Trials    map[config.Mode][]Trial
	Programs  []Iptables // one a family, if mode iptables was asked for
	Scheduler string     // of mode ipvs
	// ReadOnlySysctl tells that the kernel's settings cannot be written.
	ReadOnlySysctl bool

	// Tables are those of nftables, Legacy those of iptables-legacy, by family.
	Tables map[proxy.Family][]*survey.Table
	Legacy map[proxy.Family][]leftovers.LegacyTable
	// Strange are rules that the programs of iptables cannot read, by family.
	Strange map[proxy.Family][]compat.Rule
	// IPVS has what IPVS is used for.
	IPVS IPVS
	// Running is the mode that a running proxy says it has, "" if none answers; RunningAt is where it was asked.
	Running, RunningAt string
	// RouteLocalnet tells that packets to NodePorts on loopback addresses can leave the node.
	RouteLocalnet bool
	// TCPLiberal tells that connection tracking is set to accept packets outside of the TCP window: then mode iptables drops none.
	TCPLiberal bool
	// Counted has kube-proxy's packet counters, by name, as far as there are such.
	Counted map[string]uint64

	Interfaces []string
	CNI        []string // types of the plugins in its configuration, without those that are not about pods' networks
	// CiliumSockets tells that Cilium translates ClusterIPs at sockets.
	CiliumSockets bool

	File   *FileFacts // nil if none was given
	Unseen []Unseen
}

// IPVS tells of virtual servers.
type IPVS struct {
	Device bool // kube-ipvs0 is there
	Ours   int  // virtual servers at its addresses
	Others int
}

// Trial is an attempt to have the kernel take, in a network namespace of its own, what a mode needs.
type Trial struct {
	Family proxy.Family
	// Variant is that of iptables, "" in other modes.
	Variant iptables.Variant
	// Idle are modules that the trial would have the kernel load, which is why it was not made.
	Idle []string
	// Unseen says why it could not be made.
	Unseen error
	// Err is what the kernel refused.
	Err error
	// Lacks says which Services would be left out, and why.
	Lacks []string
}

// Iptables are its programs for a family.
type Iptables struct {
	Family proxy.Family
	Choice iptables.Choice
	// Unrun tells that they were not run, as that would have the kernel load a module; then there is no Choice.
	Unrun bool
	Err   error
}

// FileFacts are about a configuration file.
type FileFacts struct {
	Name string
	Data []byte
}

// Unseen is something that could not be looked at.
type Unseen struct {
	What string
	Err  error
	// Remedy is "" if the error says enough.
	Remedy string
}

// Present is a proxy whose rules are in the kernel.
type Present struct {
	Mode config.Mode `json:"mode"`
	// By is "Turnout" or "kube-proxy", as far as the rules tell.
	By string `json:"by"`
	// Variant is that of iptables, "" in other modes.
	Variant  iptables.Variant `json:"variant,omitempty"`
	Families []string         `json:"families"`
}
