package config

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/kube-proxy/config/v1alpha1"
	sigsyaml "sigs.k8s.io/yaml"
)

// Conversion is a file for another mode.
type Conversion struct {
	// From is the mode that the file was read for.
	From Mode
	// File is the KubeProxyConfiguration in YAML, with the fields that the file before had, if the mode uses them, and no others.
	File []byte
	// Changes tells what stands in another field or was added; Losses what could not be brought over.
	Changes, Losses Warnings
}

// Convert translates a KubeProxyConfiguration file from one mode to another: what the file sets has the same meaning, as far as the
// other mode can do that. If from is "", the mode of the file counts, and iptables if it names none, as it does to kube-proxy before
// 1.40. The error is a Problems if the file is wrong in the one mode or would be wrong in the other.
func Convert(data []byte, from, to Mode) (*Conversion, error) {
	res := resolveFile(data, from)
	if from == "" && (res.said == "" || res.said == Auto) {
		from = modeBefore
		if res.said == Auto {
			from = Modes[0]
		}
		res = resolveFile(data, from)
	}
	if len(res.problems) > 0 {
		return nil, res.problems
	}
	c := newConverter(&res, to)
	f := parseFile(data, &Problems{})
	c.losses = f.warnings
	if f.metadata {
		c.losses.add("metadata", "metadata is no field of a KubeProxyConfiguration and is left out")
	}
	for _, l := range f.leaves {
		c.set[l.field()] = true
	}
	for _, l := range f.leaves {
		c.convert(l)
	}
	c.header()
	c.nodePorts()
	raw, err := sigsyaml.Marshal(c.out)
	if err != nil {
		return nil, fmt.Errorf("marshal the converted configuration: %w", err)
	}
	if after := Check(raw, to); len(after.Problems) > 0 {
		return nil, after.Problems
	}
	return &Conversion{From: c.from, File: raw, Changes: c.changes, Losses: c.losses}, nil
}

// converter holds one conversion.
type converter struct {
	from, to         Mode
	conf             *external
	values, defaults map[string]string // of the file with its defaults, and of a file that sets nothing
	set              map[string]bool   // the fields that the file sets
	out              map[string]any
	changes, losses  Warnings
}

func newConverter(res *resolution, to Mode) *converter {
	conf := res.config.External
	return &converter{from: res.config.Mode, to: to, conf: conf, values: flatten(conf), defaults: defaultValues(), set: map[string]bool{}, out: map[string]any{}}
}

// convert brings one value over.
func (c *converter) convert(l leaf) {
	field, why := l.field(), unusedBecause(l.field())
	_, known := c.values[field]
	s := settingOf(field)
	switch {
	case why != "":
		c.lose(field, why)
	case !known && !slices.Contains(fieldPaths(), field):
		c.losses.add(field, "%s is no field of a KubeProxyConfiguration and is left out%s", field, didYouMean(field, fieldPaths()))
	case s == nil:
		put(c.out, l.path, l.value)
	case field == s.fields[c.from]:
		c.move(l, s)
	case field == s.fields[c.to]:
		c.keep(l, s)
	default:
		c.lose(field, c.whyUnused(field, s))
	}
}

// whyUnused says why a field is left out that neither mode uses.
func (c *converter) whyUnused(field string, s *setting) string {
	if target := s.fields[c.to]; target != "" {
		return fmt.Sprintf("it had no effect in mode %s; --from %s makes it %s", c.from, strings.ReplaceAll(modesOf(field), " and ", " or "), target)
	}
	return fmt.Sprintf("it had no effect in mode %s, and mode %s has nothing like it", c.from, c.to)
}

// move brings over what was in effect.
func (c *converter) move(l leaf, s *setting) {
	field, target := l.field(), s.fields[c.to]
	if target == "" {
		c.lose(field, fmt.Sprintf("mode %s has nothing like it: %s", c.to, s.without))
		return
	}
	put(c.out, strings.Split(target, "."), l.value)
	if target != field {
		c.changes.add(target, "%s: %s is now %s", field, l.text(), target)
	}
}

// keep brings over what was not in effect but belongs to the new mode, unless the mode before has a field with the same meaning: what
// was in effect stays in effect.
func (c *converter) keep(l leaf, s *setting) {
	field, before := l.field(), s.fields[c.from]
	switch {
	case before == "":
		put(c.out, l.path, l.value)
		if c.chosen(field) {
			c.changes.add(field, "%s: %s had no effect in mode %s, and takes effect now", field, c.values[field], c.from)
		}
	case c.values[field] != c.values[before]:
		c.lose(field, fmt.Sprintf("it had no effect in mode %s, where %s: %s holds", c.from, before, c.values[before]))
	}
}

// lose names a field that is left out, unless it says no more than the default.
func (c *converter) lose(field, why string) {
	if !c.chosen(field) {
		return
	}
	c.losses = append(c.losses, Warning{Where: field, Value: c.values[field],
		Text: fmt.Sprintf("%s: %s is left out: %s", field, c.values[field], why)})
}

// chosen tells whether the file sets a field to something else than its default.
func (c *converter) chosen(field string) bool {
	return c.set[field] && !meansTheSame(field, c.values[field], c.defaults[field])
}

// header adds what every file has.
func (c *converter) header() {
	c.out["apiVersion"], c.out["kind"], c.out["mode"] = v1alpha1.SchemeGroupVersion.String(), kind, string(c.to)
}

// nodePorts keeps NodePorts where they are served, if the modes differ in what an empty list means, and tells of what cannot be kept.
func (c *converter) nodePorts() {
	for _, n := range modeNotes(c.conf, c.from, c.to) {
		if n.Where != "nodePortAddresses" {
			c.losses = append(c.losses, n)
			continue
		}
		list := []any{wordPrimary}
		if defaultNodePorts(c.from) == wordAll {
			list = []any{"0.0.0.0/0", "::/0"} // kube-proxy 1.35 does not know the word
		}
		c.out["nodePortAddresses"] = list
		c.changes.add("nodePortAddresses", "%s; it is set to %s", n.Text, leaf{value: list}.text())
	}
}

// put sets a value below a path of keys.
func put(tree map[string]any, path []string, value any) {
	for _, key := range path[:len(path)-1] {
		below, ok := tree[key].(map[string]any)
		if !ok {
			below = map[string]any{}
			tree[key] = below
		}
		tree = below
	}
	tree[path[len(path)-1]] = value
}
