package preflight

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"turnout/proxy"
	"turnout/proxy/config"
)

// Modes are those that auto tries, in its order.
var Modes = config.Modes

// Judge makes a report of what was seen, for a mode or config.Auto.
func Judge(f *Facts, asked config.Mode) *Report {
	r := &Report{Asked: asked, Mode: asked, Kernel: f.Kernel, Now: present(f)}
	if asked == config.Auto {
		r.Mode = ""
		r.choose(f)
	}
	if r.Mode != "" {
		j := &judge{f, r.Mode, r.Now, nil}
		j.node()
		j.rules()
		j.network()
		j.change()
		j.file()
		r.Findings = append(r.Findings, j.findings...)
	}
	for _, u := range f.Unseen {
		r.Findings = append(r.Findings, Finding{Warning, Rules, NotSeen, fmt.Sprintf("cannot be seen: %s: %v", u.What, u.Err), u.Remedy})
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(slices.Index(topics[:], a.Topic), slices.Index(topics[:], b.Topic)), cmp.Compare(b.Level, a.Level))
	})
	for _, x := range r.Findings {
		r.Level = max(r.Level, x.Level)
	}
	return r
}

// choose finds the first mode that the node can run, as far as that is known.
func (r *Report) choose(f *Facts) {
	for _, m := range Modes {
		j := &judge{facts: f, mode: m}
		j.node()
		var why []string
		for _, x := range j.findings {
			if x.Level == Blocked {
				why = append(why, x.Message)
			}
		}
		if len(why) == 0 {
			r.Mode = m
			r.Findings = append(r.Findings, Finding{OK, Choice, ModeChosen, fmt.Sprintf("auto chooses mode %s, the first of nftables, iptables and ipvs that this node can run", m), ""})
			return
		}
		r.Findings = append(r.Findings, Finding{OK, Choice, ModeRejected, fmt.Sprintf("mode %s cannot be: %s", m, strings.Join(why, "; ")), ""})
	}
	for i := range r.Findings {
		r.Findings[i].Level = Blocked
	}
}

// judge makes findings about one mode.
type judge struct {
	facts    *Facts
	mode     config.Mode
	now      []Present
	findings []Finding
}

func (j *judge) add(l Level, t Topic, id ID, remedy, message string, args ...any) {
	j.findings = append(j.findings, Finding{l, t, id, fmt.Sprintf(message, args...), remedy})
}

// from tells that the kernel has rules of a mode.
func (j *judge) from(m config.Mode) bool {
	return slices.ContainsFunc(j.now, func(p Present) bool { return p.Mode == m })
}

// leaves tells that the kernel has rules of a mode that is not the one to change to.
func (j *judge) leaves(m config.Mode) bool { return j.mode != m && j.from(m) }

// families names those of the node: "IPv4 and IPv6".
func familyNames(fs []proxy.Family) string { return strings.Join(familyList(fs), " and ") }

func familyList(fs []proxy.Family) (out []string) {
	for _, f := range fs {
		out = append(out, f.String())
	}
	return out
}
