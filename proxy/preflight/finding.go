package preflight

import (
	"strings"

	"turnout/proxy/config"
)

// Level is how much a finding is in the way. It is the exit code of the command, too.
type Level int

// The levels.
const (
	OK Level = iota
	// Warning: the mode works, but something else changes or needs to be looked at.
	Warning
	// Blocked: the mode cannot work.
	Blocked
)

var levels = [...]string{"ok", "warning", "blocked"}

// String returns "ok", "warning" or "blocked".
func (l Level) String() string { return levels[l] }

// MarshalText implements encoding.TextMarshaler.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// Topic is what a finding is about. Findings are in the order of their topics.
type Topic string

// The topics.
const (
	Choice   Topic = "choice"   // of the mode, by auto
	Kernel   Topic = "kernel"   // its features and modules
	Programs Topic = "programs" // of iptables
	Rules    Topic = "rules"    // that are in the kernel now
	Network  Topic = "network"  // the CNI plugin
	Change   Topic = "change"   // of behaviour, from the mode that the kernel has rules of
	File     Topic = "file"     // the configuration
)

var topics = [...]Topic{Choice, Kernel, Programs, Rules, Network, Change, File}

// ID names a kind of finding. IDs are stable: scripts may rely on them.
type ID string

// The IDs, by topic.
const (
	ModeChosen   ID = "mode-chosen"
	ModeRejected ID = "mode-rejected"

	KernelTried    ID = "kernel-tried"
	KernelRefused  ID = "kernel-refused"
	KernelUntried  ID = "kernel-untried"
	ModulesIdle    ID = "modules-idle"
	ModulesMissing ID = "modules-missing"
	ReadOnlySysctl ID = "sysctl-read-only"

	ProgramsFound   ID = "programs-found"
	ProgramsUnfit   ID = "programs-unfit"
	ProgramsUnrun   ID = "programs-unrun"
	ProgramsUnused  ID = "programs-unused"
	ProgramsRefused ID = "programs-refused"

	RulesOfProxy    ID = "rules-of-proxy"
	RulesOfNobody   ID = "rules-of-nobody"
	ProxyRuns       ID = "proxy-runs"
	BothVariants    ID = "both-variants"
	TableUnreadable ID = "table-unreadable"
	Translator      ID = "translator"
	VirtualServers  ID = "virtual-servers-of-others"

	Calico     ID = "cni-calico"
	Flannel    ID = "cni-flannel"
	Kilo       ID = "cni-kilo"
	KubeRouter ID = "cni-kube-router"
	Cilium     ID = "cni-cilium"
	Antrea     ID = "cni-antrea"
	OVN        ID = "cni-ovn-kubernetes"
	OtherCNI   ID = "cni-other"

	LocalhostNodePorts ID = "localhost-nodeports"
	NodePortAddresses  ID = "nodeport-addresses"
	InvalidPackets     ID = "invalid-packets"
	UndefinedPorts     ID = "undefined-ports"
	IPVSConnections    ID = "ipvs-connections"
	IPVSLimits         ID = "ipvs-limits"
	SessionAffinity    ID = "session-affinity"

	FileProblem ID = "file-problem"
	FileWarning ID = "file-warning"
	FileNote    ID = "file-note"

	NotSeen ID = "not-seen"
)

// Finding is one thing that was found out.
type Finding struct {
	Level Level `json:"level"`
	Topic Topic `json:"topic"`
	ID    ID    `json:"id"`
	// Message is a sentence without a full stop; Remedy is what to do about it, "" if there is nothing to do.
	Message string `json:"message"`
	Remedy  string `json:"remedy,omitempty"`
}

// String is one line.
func (f Finding) String() string {
	text := f.Message
	if f.Remedy != "" {
		text += remedyMark + f.Remedy
	}
	return strings.Join(strings.Fields(text), " ")
}

// Report is the answer.
type Report struct {
	// Asked is the mode that was asked for; Mode the one that the findings are about, "" if auto finds none.
	Asked config.Mode `json:"asked"`
	Mode  config.Mode `json:"mode"`
	// Level is the highest of the findings'.
	Level Level `json:"level"`
	// Kernel is its release, such as "6.12.0".
	Kernel string `json:"kernel"`
	// Now are the proxies whose rules are in the kernel.
	Now      []Present `json:"now"`
	Findings []Finding `json:"findings"`
}
