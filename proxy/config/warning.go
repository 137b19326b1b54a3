package config

import (
	"fmt"
	"maps"
	"slices"
)

// Warning is something that does not keep the proxy from starting, but has no effect or is likely to be a mistake.
type Warning struct {
	// Where is the path of a field, a flag with its dashes, or "" for the file as a whole.
	Where string
	// Value is the field's value as JSON would have it, but strings without quotes; "" if it does not matter.
	Value string
	// Text is a sentence without a full stop. It names field and value, what follows, and the remedy if there is one.
	Text string
	// Instead is the path of the field that has the same meaning in the mode in use; "" if there is none.
	Instead string
}

// String returns the text.
func (w Warning) String() string { return w.Text }

// Warnings are in the order in which they were found.
type Warnings []Warning

// add appends a Warning; the text is a format.
func (ws *Warnings) add(where, format string, args ...any) {
	*ws = append(*ws, Warning{Where: where, Text: fmt.Sprintf(format, args...)})
}

// unused finds the fields of a file that were set and have no effect. A note is about one that nothing is lost by, or that installers
// always write. latent has what is wrong with fields that the mode does not use: it would keep the proxy from starting in another.
func unused(conf *external, m Mode, modeSet bool, latent Problems) (found, notes Warnings) {
	if slices.Contains(Modes, m) {
		found, notes = unusedInMode(conf, m, modeSet, latent)
	}
	more, moreNotes := unusedElsewhere(conf)
	return append(found, more...), append(notes, moreNotes...)
}

// unusedInMode finds the fields that a mode does not use, and that were set to something else than their default.
func unusedInMode(conf *external, m Mode, modeSet bool, latent Problems) (found, notes Warnings) {
	set, defaults := flatten(conf), defaultValues()
	name := "mode " + string(m)
	if !modeSet {
		name += ", which an unset mode means"
	}
	for _, field := range slices.Sorted(maps.Keys(set)) {
		if usedIn(field, m) || meansTheSame(field, set[field], defaults[field]) {
			continue
		}
		refused := slices.ContainsFunc(latent, func(p Problem) bool { return p.Where == field })
		w, covered := noEffectIn(field, m, name, set, defaults, refused)
		if latent = refuse(&w, latent); covered && !refused {
			notes = append(notes, w)
		} else {
			found = append(found, w)
		}
	}
	for _, p := range latent { // of a field that was not set, but does not go with one that was
		w := Warning{Where: p.Where, Value: set[p.Where], Text: fmt.Sprintf("%s: %s has no effect in %s", p.Where, set[p.Where], name)}
		_ = refuse(&w, Problems{p})
		found = append(found, w)
	}
	return found, notes
}

// noEffectIn is about a field that was set and that mode m does not use. covered tells that the field which the mode uses instead says
// the same. refused tells that no mode takes the value, which is then nothing to set elsewhere.
func noEffectIn(field string, m Mode, name string, set, defaults map[string]string, refused bool) (w Warning, covered bool) {
	value := set[field]
	w = Warning{Where: field, Value: value, Text: fmt.Sprintf("%s: %s has no effect in %s", field, value, name)}
	if why := unusedBecause(field); why != "" {
		w.Text = fmt.Sprintf("%s: %s is ignored: %s", field, value, why)
		return w, false
	}
	s := settingOf(field)
	w.Instead = s.fields[m]
	switch other := set[w.Instead]; {
	case w.Instead == "":
		w.Text += ": " + s.without
	case other == value:
		w.Text += fmt.Sprintf(", and %s says the same", w.Instead)
		covered = true
	case other != defaults[w.Instead]:
		w.Text += fmt.Sprintf(", where %s: %s holds", w.Instead, other)
	case refused:
		w.Text += fmt.Sprintf(", where %s counts", w.Instead)
	default:
		w.Text += fmt.Sprintf("; set %s: %s", w.Instead, value)
	}
	return w, covered
}

// refuse adds to a Warning what is wrong with its field, and returns the Problems of other fields.
func refuse(w *Warning, latent Problems) (others Problems) {
	for _, p := range latent {
		if p.Where != w.Where {
			others = append(others, p)
			continue
		}
		w.Text += fmt.Sprintf(", and keeps the proxy from starting in mode %s: %s", modesOf(p.Where), p.Text)
	}
	return others
}

// meansTheSame tells whether a field's value is its default, or does the same.
func meansTheSame(field, value, def string) bool {
	return value == def || field == "ipvs.scheduler" && value == "rr"
}

// unusedElsewhere finds fields that have no effect because of others, in whatever mode.
func unusedElsewhere(conf *external) (found, notes Warnings) {
	local := LocalMode(conf.DetectLocalMode)
	if b := conf.DetectLocal.BridgeInterface; b != "" && local != DetectBridgeInterface {
		found = append(found, noEffectBecause("detectLocal.bridgeInterface", b, "detectLocalMode is "+string(local)))
	}
	if p := conf.DetectLocal.InterfaceNamePrefix; p != "" && local != DetectInterfaceNamePrefix {
		found = append(found, noEffectBecause("detectLocal.interfaceNamePrefix", p, "detectLocalMode is "+string(local)))
	}
	// kubeadm always writes it.
	if c := conf.ClusterCIDR; c != "" && local != DetectClusterCIDR {
		notes = append(notes, noEffectBecause("clusterCIDR", c, "detectLocalMode is "+string(local)))
	}
	// So do kind and tests in namespaces, where the limit cannot be set.
	if least := *conf.Conntrack.Min; *conf.Conntrack.MaxPerCore == 0 && least != 0 && least != conntrackMin {
		notes = append(notes, noEffectBecause("conntrack.min", fmt.Sprint(least), "conntrack.maxPerCore is 0, which leaves the kernel's limit alone"))
	}
	return found, notes
}

func noEffectBecause(field, value, why string) Warning {
	return Warning{Where: field, Value: value, Text: fmt.Sprintf("%s: %s has no effect: %s", field, value, why)}
}

// modeNotes tell what a user should know who brings a file from one mode to another, and no single field shows.
func modeNotes(conf *external, from, to Mode) (notes Warnings) {
	if from == to {
		return nil
	}
	if len(conf.NodePortAddresses) == 0 && (from == NFTables) != (to == NFTables) {
		notes.add("nodePortAddresses", "nodePortAddresses is not set, which means %s in mode %s, but %s in mode %s",
			defaultNodePorts(from), from, defaultNodePorts(to), to)
	}
	if from == IPTables && *conf.IPTables.LocalhostNodePorts && servesLoopback(conf) {
		notes.add("iptables.localhostNodePorts", "NodePorts on loopback addresses (127.0.0.1) end: only mode iptables serves them")
	}
	return notes
}

// servesLoopback tells whether NodePorts are served on 127.0.0.1 in mode iptables, as far as nodePortAddresses goes.
func servesLoopback(conf *external) bool {
	none := true
	for _, s := range conf.NodePortAddresses {
		if s == wordLocalhost || s == wordAll {
			return true
		}
		p, ok := parsePrefix(s)
		if ok && p.Addr().Is4() {
			none = false
			if p.Bits() == 0 || p.Addr().IsLoopback() {
				return true
			}
		}
		none = none && s != wordPrimary
	}
	return none
}

// defaultNodePorts is what an unset nodePortAddresses means in a mode.
func defaultNodePorts(m Mode) string {
	if m == NFTables {
		return wordPrimary
	}
	return wordAll
}
