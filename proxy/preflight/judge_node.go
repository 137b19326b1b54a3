package preflight

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"turnout/proxy"
	"turnout/proxy/config"
	"turnout/proxy/iptables"
)

// node is about what the node must have: the kernel, and the programs of mode iptables.
func (j *judge) node() {
	j.programs()
	j.trials()
	if j.mode == config.IPVS && j.facts.ReadOnlySysctl {
		j.add(Warning, Kernel, ReadOnlySysctl, "run the proxy privileged, or have the node set net.ipv4.vs.conntrack, expire_nodest_conn and expire_quiescent_template, and net.ipv4.ip_forward, to 1",
			"mode ipvs sets kernel settings, and /proc/sys is read-only here")
	}
}

// trials tells what became of them. Families with the same outcome share a finding.
func (j *judge) trials() {
	var took, waits []proxy.Family
	var idle []string
	refused, untried, lacking := outcomes{}, outcomes{}, outcomes{}
	seen := map[string]bool{}
	for _, t := range j.facts.Trials[j.mode] {
		switch {
		case t.Err != nil:
			refused.add(j.refusal(t), t.Family)
		case t.Unseen != nil:
			untried.add(t.Unseen.Error(), t.Family)
		case len(t.Idle) > 0:
			waits = append(waits, t.Family)
			idle = append(idle, j.idle(t, seen)...)
		default:
			took = append(took, t.Family)
		}
		for _, l := range t.Lacks {
			lacking.add(l, t.Family)
		}
	}
	for _, o := range lacking {
		j.add(Warning, Kernel, KernelRefused, moreModules, "Linux %s cannot do all of mode %s for %s. %s", j.facts.Kernel, j.mode, familyNames(o.families), o.text)
	}
	for _, o := range refused {
		if what, remedy, ok := strings.Cut(o.text, remedyMark); ok {
			j.add(Blocked, Programs, ProgramsRefused, remedy, "mode iptables does not work for %s: %s", familyNames(o.families), what)
		} else {
			j.add(Blocked, Kernel, KernelRefused, "use another mode, or another kernel", "Linux %s cannot do mode %s for %s: %s", j.facts.Kernel, j.mode, familyNames(o.families), o.text)
		}
	}
	for _, o := range untried {
		j.add(Warning, Kernel, KernelUntried, "run preflight as root on the node itself", "cannot be seen: whether the kernel takes what mode %s needs for %s: %s", j.mode, familyNames(o.families), o.text)
	}
	if len(took) > 0 {
		j.add(OK, Kernel, KernelTried, "", "Linux %s takes what mode %s needs for %s; it was tried in a network namespace of its own", j.facts.Kernel, j.mode, familyNames(took))
	}
	if slices.Sort(idle); len(idle) > 0 {
		j.add(OK, Kernel, ModulesIdle, "", "the kernel would load modules for mode %s when the proxy starts, so nothing was tried for %s: %s", j.mode, familyNames(waits),
			strings.Join(slices.Compact(idle), ", "))
	}
}

// outcomes are texts, and the families that they are about.
type outcomes []outcome

type outcome struct {
	text     string
	families []proxy.Family
}

func (os *outcomes) add(text string, f proxy.Family) {
	for i, o := range *os {
		if o.text == text {
			(*os)[i].families = append(o.families, f)
			return
		}
	}
	*os = append(*os, outcome{text, []proxy.Family{f}})
}

// moreModules is what helps where a kernel lacks modules.
const moreModules = "install the package with the kernel's further modules, or use another mode"

// remedyMark is between what happened and what helps.
const remedyMark = "; remedy: "

// refusal says why a trial failed, the same for both families if it is the same.
func (j *judge) refusal(t Trial) string {
	if e, ok := errors.AsType[*iptables.Error](t.Err); ok {
		what, remedy := split(e)
		return what + remedyMark + remedy
	}
	text := strings.ReplaceAll(t.Err.Error(), fmt.Sprintf("this node cannot run mode %s for %s: ", j.mode, t.Family), "")
	return strings.ReplaceAll(text, "\n", "; ")
}

// idle is about modules instead of a trial. It returns those that would be loaded.
func (j *judge) idle(t Trial, seen map[string]bool) (idle []string) {
	need := needOf(j.mode, t.Family, t.Variant, j.facts.Scheduler)
	if missing := strings.Join(j.facts.Modules.Missing(need.must), ", "); missing != "" && !seen[missing] {
		seen[missing] = true
		j.add(Blocked, Kernel, ModulesMissing, moreModules,
			"Linux %s has no module %s, which mode %s needs for %s", j.facts.Kernel, missing, j.mode, t.Family)
	}
	for _, name := range j.facts.Modules.Missing(need.some) {
		if !seen[name] {
			seen[name] = true
			j.add(Warning, Kernel, ModulesMissing, moreModules, "Linux %s has no module %s: Services with %s are left out in mode %s", j.facts.Kernel, name, servedBy[name], j.mode)
		}
	}
	if j.facts.Modules.unread != nil {
		if !seen["modules"] {
			seen["modules"] = true
			j.add(Warning, Kernel, KernelUntried, "run preflight on the node itself, or give the folder that has the node's lib/modules with --root",
				"cannot be seen: whether the kernel has %s: %v", strings.Join(t.Idle, ", "), j.facts.Modules.unread)
		}
		return nil
	}
	if slices.Contains(t.Idle, "ip_vs") && !atLeast(j.facts.Kernel, 5, 11) && !seen["ip_vs"] {
		seen["ip_vs"] = true
		j.add(Warning, Kernel, ModulesIdle, "modprobe ip_vs, and a line ip_vs in a file of /etc/modules-load.d", "Linux %s does not load the module ip_vs when the proxy asks for it", j.facts.Kernel)
	}
	return t.Idle
}

// programs is about those of iptables.
func (j *judge) programs() {
	if j.mode != config.IPTables {
		j.add(OK, Programs, ProgramsUnused, "", "mode %s runs no program", j.mode)
		return
	}
	var missing []string
	var unrun []proxy.Family
	why, remedy := "", ""
	for _, p := range j.facts.Programs {
		if p.Err == nil && p.Unrun {
			unrun = append(unrun, p.Family)
			continue
		}
		if p.Err == nil {
			j.add(OK, Programs, ProgramsFound, "", "%s: %s", p.Family, p.Choice)
			continue
		}
		e, ok := errors.AsType[*iptables.Error](p.Err)
		switch {
		case ok && e.Kind == iptables.Missing && e.Version == "":
			missing = append(missing, e.Program)
			why, remedy = fmt.Sprint(e.Err), iptables.Missing.Remedy()
		case ok:
			what, remedy := split(e)
			j.add(Blocked, Programs, ProgramsUnfit, remedy, "%s: %s", p.Family, what)
		default:
			j.add(Blocked, Programs, ProgramsUnfit, "", "%s: %v", p.Family, p.Err)
		}
	}
	if len(unrun) > 0 {
		j.add(Warning, Programs, ProgramsUnrun, "modprobe nf_tables, and run preflight again",
			"cannot be seen: whether the programs of iptables for %s, which are there, work: to run them would have the kernel load module nfnetlink", familyNames(unrun))
	}
	if len(missing) > 0 {
		j.add(Blocked, Programs, ProgramsUnfit, remedy, "this node has no programs of iptables: %s cannot be run (%s)", strings.Join(missing, " and "), why)
	}
}

// split takes the remedy off the text of an error.
func split(e *iptables.Error) (what, remedy string) {
	remedy = e.Kind.Remedy()
	return strings.TrimSuffix(e.Error(), "; "+remedy), remedy
}
