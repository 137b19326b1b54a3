package preflight

import (
	"slices"

	"turnout/proxy/config"
)

// file is about the configuration: what is wrong with it for the mode, and what has no effect.
func (j *judge) file() {
	if j.facts.File == nil {
		return
	}
	name := j.facts.File.Name
	r := config.Check(j.facts.File.Data, j.mode)
	for _, p := range r.Problems {
		j.add(Blocked, File, FileProblem, "", "%s: %v", name, p)
	}
	for _, w := range r.Warnings {
		j.add(Warning, File, FileWarning, "turnout config convert --to "+string(j.mode)+" moves what has another name in this mode", "%s: %v", name, w)
	}
	for _, w := range r.Notes {
		if !j.told(w.Where) {
			j.add(OK, File, FileNote, "", "%s: %v", name, w)
		}
	}
}

// told tells that a finding about what is in the kernel says the same as a note about a field.
func (j *judge) told(field string) bool {
	id, ok := map[string]ID{"nodePortAddresses": NodePortAddresses, "iptables.localhostNodePorts": LocalhostNodePorts}[field]
	return ok && slices.ContainsFunc(j.findings, func(f Finding) bool { return f.ID == id })
}

// values are what a file says about things that differ between modes.
type values struct {
	nodePorts          []string
	localhost, liberal bool // localhost: NodePorts on 127.0.0.1, in mode iptables
	scheduler          string
	protect            bool
}

// settingsOf reads a file as the proxy does; not one that has problems.
func settingsOf(data []byte) (values, bool) {
	flags := config.NewFlags()
	flags.Parse([]string{"--config=file"})
	cfg, err := flags.Config(func(string) ([]byte, error) { return data, nil })
	if err != nil {
		return values{}, false
	}
	iptables, err := cfg.In(config.IPTables)
	localhost := err == nil && iptables.LocalhostNodePorts
	e := cfg.External
	return values{e.NodePortAddresses, localhost, cfg.Conntrack.TCPBeLiberal, e.IPVS.Scheduler, cfg.ProtectTable}, true
}
