package leftovers

import (
	"errors"
	"fmt"

	"turnout/proxy"
)

// Remains are what an earlier proxy of mode iptables or ipvs left on this node.
type Remains struct {
	iptables []*Iptables
	legacy   []*Legacy
	ipvs     *IPVS
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
	return append(out, r.ipvs.Objects()...)
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
	for _, o := range r.ipvs.Kept() {
		out = append(out, Kept{o, "it may be somebody else's; if it is a NodePort of kube-proxy's: ipvsadm --delete-service"})
	}
	return out
}

// Kept is an Object that cannot be removed.
type Kept struct {
	Object
	Why string
}

func (k Kept) String() string { return fmt.Sprintf("%s (%s)", k.Object, k.Why) }

// Remove removes what can be removed, and goes on after an error.
func (r *Remains) Remove() error {
	var errs []error
	for _, i := range r.iptables {
		errs = append(errs, i.Remove())
	}
	for _, l := range r.legacy {
		errs = append(errs, l.Remove())
	}
	errs = append(errs, r.ipvs.Remove())
	return errors.Join(errs...)
}
