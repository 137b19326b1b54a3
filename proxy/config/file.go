package config

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/kube-proxy/config/v1alpha1"
	kjson "sigs.k8s.io/json"
	sigsyaml "sigs.k8s.io/yaml"
)

// kind is the kind of the configuration file.
const kind = "KubeProxyConfiguration"

// decodeFile reads a KubeProxyConfiguration from YAML or JSON, without defaults. Whatever is unknown is a warning, whatever
// has the wrong type is a problem, and the rest of the file is read nevertheless. A Problem of the file as a whole has no Where.
func decodeFile(data []byte) (c *external, ws Warnings, ps Problems) {
	f := parseFile(data, &ps)
	d := fileDecoder{known: fieldPaths(), warnings: f.warnings}
	for _, l := range f.leaves {
		d.decode(l)
	}
	return &d.conf, d.warnings, append(ps, d.problems...)
}

// file is a configuration file as it was written.
type file struct {
	leaves   []leaf // of fields, known or not, that say something
	metadata bool   // there was an entry metadata, as kind writes it
	warnings Warnings
}

// parseFile reads YAML or JSON.
func parseFile(data []byte, ps *Problems) (f file) {
	tree, ws, err := parseYAML(data)
	f.warnings = ws
	if err != nil {
		ps.add("", "%v; write a KubeProxyConfiguration in YAML or JSON", err)
		return f
	}
	checkKind(tree, ps)
	_, f.metadata = tree["metadata"]
	delete(tree, "metadata") // kind and other tools add it
	f.leaves = leaves(nil, tree)
	return f
}

// parseYAML reads the first document as a tree of maps, and warns about further documents and duplicate keys.
func parseYAML(data []byte) (tree map[string]any, ws Warnings, err error) {
	doc, more, err := firstDocument(data)
	if err != nil {
		return nil, nil, err
	}
	if more {
		ws.add("", "the configuration file has several YAML documents: only the first is used")
	}
	raw, err := sigsyaml.YAMLToJSONStrict(doc)
	if err != nil {
		lenient, lenientErr := sigsyaml.YAMLToJSON(doc)
		if lenientErr != nil {
			return nil, ws, lenientErr
		}
		ws.add("", "the configuration file is not strictly valid: %s", strings.Join(strings.Fields(err.Error()), " "))
		raw = lenient
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if err := decoder.Decode(&tree); err != nil || tree == nil {
		return nil, ws, errors.New("the configuration file is not a mapping of fields to values")
	}
	return tree, ws, nil
}

// firstDocument returns the first YAML document that is not blank, and whether there are more.
func firstDocument(data []byte) (first []byte, more bool, err error) {
	reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			if first == nil {
				return nil, false, errors.New("the configuration file is empty")
			}
			return first, false, nil
		}
		if err != nil {
			return nil, false, err
		}
		var content any
		if sigsyaml.Unmarshal(doc, &content) == nil && content == nil {
			continue
		}
		if first != nil {
			return first, true, nil
		}
		first = doc
	}
}

// checkKind refuses files of another kind or version.
func checkKind(tree map[string]any, ps *Problems) {
	for _, w := range [][2]string{{"apiVersion", v1alpha1.SchemeGroupVersion.String()}, {"kind", kind}} {
		switch got := tree[w[0]]; got {
		case w[1]:
		case nil, "":
			ps.add(w[0], "is missing; write %s: %s", w[0], w[1])
		default:
			ps.add(w[0], "%v is not supported; write %s: %s", got, w[0], w[1])
		}
		delete(tree, w[0])
	}
}

// leaf is one value that is not a mapping, and the path to it.
type leaf struct {
	path  []string
	value any
}

// field returns the path as text.
func (l leaf) field() string { return strings.Join(l.path, ".") }

// text returns the value as JSON would have it but for the quotes of strings.
func (l leaf) text() string { return plainJSON(marshal(l.value)) }

// leaves returns the leaves of a tree in order of their paths. Null and "" are left out, as they mean the default.
func leaves(path []string, tree map[string]any) []leaf {
	var out []leaf
	for _, key := range slices.Sorted(maps.Keys(tree)) {
		p := append(slices.Clone(path), key)
		switch v := tree[key].(type) {
		case nil:
		case map[string]any:
			out = append(out, leaves(p, v)...)
		case json.Number:
			if v == "0" && isDuration(p) {
				out = append(out, leaf{p, "0s"}) // the type wants a unit
			} else {
				out = append(out, leaf{p, v})
			}
		default:
			if v != "" {
				out = append(out, leaf{p, v})
			}
		}
	}
	return out
}

// fileDecoder decodes leaf by leaf, so that one that is wrong does not hide the others.
type fileDecoder struct {
	known    []string
	conf     external
	warnings Warnings
	problems Problems
}

func (d *fileDecoder) decode(l leaf) {
	raw := nest(l.path, l.value)
	strict, err := kjson.UnmarshalStrict(raw, &external{})
	if err == nil {
		err = kjson.UnmarshalCaseSensitivePreserveInts(raw, &d.conf)
	}
	if err != nil {
		d.problems.add(l.field(), "%s does not fit; give %s", marshal(l.value), leafWanted(l.path, err))
	}
	for _, s := range strict {
		d.warnings.add(l.field(), "the configuration file has an %v, which is ignored%s", s, didYouMean(l.field(), d.known))
	}
}

// nest returns the JSON of a value below a path of keys.
func nest(path []string, value any) []byte {
	for _, key := range slices.Backward(path) {
		value = map[string]any{key: value}
	}
	return marshal(value)
}

// marshal returns the JSON of a value that was decoded from JSON.
func marshal(value any) []byte {
	raw, err := json.Marshal(value)
	if err != nil {
		panic("marshal a value that was decoded from JSON: " + err.Error())
	}
	return raw
}

// isDuration tells a duration by the last key of its path: all of them, and no others, end so.
func isDuration(path []string) bool {
	last := path[len(path)-1]
	return strings.HasSuffix(last, "Period") || strings.HasSuffix(last, "Timeout")
}

// leafWanted says what should stand there.
func leafWanted(path []string, err error) string {
	if isDuration(path) {
		return `a duration such as "30s" or "15m"`
	}
	var mismatch *json.UnmarshalTypeError
	if !errors.As(err, &mismatch) {
		return "another value: " + err.Error()
	}
	switch mismatch.Type.Kind().String() {
	case "bool":
		return "true or false"
	case "int32", "uint32":
		return "a whole number up to 2147483647"
	case "string":
		return "a string, in quotes"
	case "slice":
		return "a list"
	case "struct", "map":
		return "a mapping"
	}
	return "a number"
}
