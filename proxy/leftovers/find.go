package leftovers

import (
	"errors"
	"fmt"
	"slices"

	"turnout/proxy"
)

// Remains are what an earlier proxy of mode iptables or ipvs left on this node.
type Remains struct {
	iptables []*Iptables
	legacy   []*Legacy
	ipvs     *IPVS
	sets     []ipset
	counters []string
}

// Find looks for what is in scope, of these families. What cannot be read is an error, but does not keep the rest from being found.
func Find(s Scope, families ...proxy.Family) (*Remains, error) {
	r := &Remains{ipvs: &IPVS{}}
	var errs []error
	if s.IPVS {
		if found, err := FindIPVS(); err != nil {
			errs = append(errs, err)
		} else {
			r.ipvs = found
		}
	}
	for _, f := range families {
		found, err := FindIptables(s, f)
		if err != nil {
			errs = append(errs, err)
		} else {
			r.iptables = append(r.iptables, found)
		}
		legacy, err := FindLegacy(s, f)
		if err != nil {
			errs = append(errs, err)
		} else {
			r.legacy = append(r.legacy, legacy)
		}
	}
	if s.ipvsRules() {
		found, err := findIPSets()
		errs = append(errs, err)
		r.sets = found
	}
	if s.Iptables {
		found, err := findCounters()
		errs = append(errs, err)
		r.counters = found
	}
	return r, errors.Join(errs...)
}

// Removable lists what Remove removes.
func (r *Remains) Removable() (out []Object) {
	for _, i := range r.iptables {
		out = append(out, i.Objects()...)
	}
	for _, l := range r.legacy {
		out = append(out, l.Objects()...)
	}
	out = append(out, r.ipvs.Objects()...)
	for _, set := range r.removableSets() {
		out = append(out, set.object())
	}
	for _, name := range r.counters {
		out = append(out, counterObject(name))
	}
	return out
}

// removableSets are those that nothing refers to. As long as there are rules of kube-proxy's, the references are taken for theirs: whose they are
// shows when these are gone.
func (r *Remains) removableSets() (out []ipset) {
	for _, set := range r.sets {
		if set.references == 0 || r.hasRules() {
			out = append(out, set)
		}
	}
	return out
}

func (r *Remains) hasRules() bool {
	return slices.ContainsFunc(r.iptables, func(i *Iptables) bool { return len(i.Objects()) > 0 }) ||
		slices.ContainsFunc(r.legacy, func(l *Legacy) bool { return len(l.Objects()) > 0 })
}

// Kept lists what Remove leaves, and why.
func (r *Remains) Kept() (out []Kept) {
	for _, i := range r.iptables {
		for _, o := range i.Kept() {
			out = append(out, Kept{o, "another program needs it"})
		}
	}
	for _, l := range r.legacy {
		for _, o := range l.Kept() {
			out = append(out, Kept{o, "another program needs it"})
		}
	}
	for _, o := range r.ipvs.doubtful() {
		out = append(out, Kept{o, "it may be somebody else's; if it is a NodePort of kube-proxy's: ipvsadm --delete-service"})
	}
	for _, set := range r.sets {
		if set.references > 0 && !r.hasRules() {
			why := fmt.Sprintf("a rule or a set of another program refers to it; when that is gone: ipset destroy %s", set.name)
			out = append(out, Kept{set.object(), why})
		}
	}
	return out
}

// Kept is an Object that cannot be removed.
type Kept struct {
	Object
	Why string
}

func (k Kept) String() string { return fmt.Sprintf("%s (%s)", k.Object, k.Why) }

// Remove removes what can be removed, and goes on after an error. Sets and counters go last, when no rule refers to them any longer.
func (r *Remains) Remove() error {
	var errs []error
	for _, i := range r.iptables {
		errs = append(errs, i.Remove())
	}
	for _, l := range r.legacy {
		errs = append(errs, l.Remove())
	}
	errs = append(errs, r.ipvs.Remove(), removeIPSets(r.removableSets()), removeCounters(r.counters))
	return errors.Join(errs...)
}
