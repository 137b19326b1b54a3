package dir

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// decode reads the objects of one file. The name tells the format: JSON if it ends in ".json", else YAML. What cannot be read
// is left out and reported.
func decode(file string, data []byte) content {
	documents, problems := split(file, data)
	d := decoder{file: file, ignored: map[string]int{}}
	for _, doc := range documents {
		d.document(doc)
	}
	d.problems = append(d.problems, problems...)
	d.reportIgnored()
	return d.content
}

// decoder gathers the content of one file.
type decoder struct {
	file string
	content
	ignored map[string]int // objects of kinds that a proxy does not use, by apiVersion and kind
}

// item is one object in a document: the document itself, or an element of its list.
type item struct {
	*document
	path string // such as "items[3]"; empty if it is the document itself
	json []byte
}

// field returns the path in the document of a field of the item.
func (i item) field(path string) string {
	if i.path == "" || path == "" || path[0] == '[' {
		return i.path + path
	}
	return i.path + "." + path
}

// header is what tells which object something is. Parts that objects of foreign kinds may have in another shape stay raw.
type header struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Spec        json.RawMessage `json:"spec"`
	AddressType json.RawMessage `json:"addressType"`
	Items       json.RawMessage `json:"items"`
}

// absent reports whether a part of a header is missing or null.
func absent(part json.RawMessage) bool { return len(part) == 0 || string(part) == "null" }

func (d *decoder) document(doc *document) {
	text := doc.text
	if !doc.json {
		text = d.toJSON(doc)
	}
	if text == nil || string(text) == "null" {
		return
	}
	it := item{document: doc, json: text}
	h, ok := d.header(it)
	if !ok {
		return
	}
	elementKind, isList := strings.CutSuffix(h.Kind, "List")
	if !isList || absent(h.Items) {
		d.object(it, h)
		return
	}
	var elements []json.RawMessage
	if err := json.Unmarshal(h.Items, &elements); err != nil {
		d.add(it, "items", "", Error, "items: want a list of objects")
		return
	}
	for n, element := range elements {
		d.element(item{document: doc, path: fmt.Sprintf("items[%d]", n), json: element}, h.APIVersion, elementKind)
	}
}

// toJSON converts a YAML document. A key given twice is a warning, as it is to the API server.
func (d *decoder) toJSON(doc *document) []byte {
	text, err := yaml.YAMLToJSONStrict(doc.text)
	if err == nil {
		return text
	}
	if text, lenient := yaml.YAMLToJSON(doc.text); lenient == nil {
		d.problems = append(d.problems, doc.yamlProblems(d.file, Warning, "", err)...)
		return text
	}
	d.problems = append(d.problems, doc.yamlProblems(d.file, Error, "is not YAML: ", err)...)
	return nil
}

// element reads an element of a list. In a list of one kind, as the API server itself answers it, elements need not repeat
// apiVersion and kind.
func (d *decoder) element(it item, apiVersion, elementKind string) {
	h, ok := d.header(it)
	if !ok {
		return
	}
	if h.Kind == "" && h.APIVersion == "" && elementKind != "" {
		h.APIVersion, h.Kind = apiVersion, elementKind
	}
	if strings.HasSuffix(h.Kind, "List") {
		d.add(it, "kind", "", Error, it.path+" is a list inside a list; put its items into the outer one")
		return
	}
	d.object(it, h)
}

func (d *decoder) header(it item) (header, bool) {
	var h header
	if err := kjson.UnmarshalCaseSensitivePreserveInts(it.json, &h); err != nil {
		d.addUnreadable(it, "", err)
		return h, false
	}
	return h, true
}

func (d *decoder) object(it item, h header) {
	if h.Kind == "" || h.APIVersion == "" {
		d.add(it, "", "", Error, strings.TrimSpace(it.path+" has no apiVersion or no kind; write it as kubectl get -o yaml does"))
		return
	}
	v, known := versions[h.Kind]
	if !known || !v.groupOf(h.APIVersion) {
		d.ignored[h.APIVersion+" "+h.Kind]++
		return
	}
	key := v.key(h)
	if found := v.check(h); len(found) > 0 {
		for _, f := range found {
			d.add(it, f.field, key.String(), Error, f.reason)
		}
		return
	}
	o := v.new()
	strict, err := kjson.UnmarshalStrict(it.json, o)
	if err != nil {
		d.addUnreadable(it, key.String(), err)
		return
	}
	for _, err := range strict {
		d.addStrict(it, key.String(), err)
	}
	o.SetNamespace(key.namespace)
	complete(o)
	for _, f := range doubts(o) {
		d.add(it, f.field, key.String(), Warning, f.reason)
	}
	d.entries = append(d.entries, entry{key: key, object: o, line: it.first, document: it.number, path: it.path})
}

func (d *decoder) add(it item, field, object string, severity Severity, reason string) {
	d.problems = append(d.problems, Problem{
		File: d.file, Line: it.lineOf(it.field(field)), Document: it.number, Object: object, Severity: severity, Reason: reason,
	})
}

// addUnreadable reports an object that could not be decoded, in most cases for a field of the wrong type.
func (d *decoder) addUnreadable(it item, object string, err error) {
	wrong, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		d.add(it, "", object, Error, strings.TrimPrefix(err.Error(), "json: "))
		return
	}
	field := pathAt(it.json, wrong.Offset)
	reason := fmt.Sprintf("want %s, have %s", typeName(wrong.Type), wrong.Value)
	if path := it.field(field); path != "" {
		reason = path + ": " + reason
	}
	d.add(it, field, object, Error, reason)
}

// addStrict reports a field that the API does not know, or that is there twice. Neither keeps the object from being used.
func (d *decoder) addStrict(it item, object string, err error) {
	field, reason := "", err.Error()
	if e, ok := errors.AsType[kjson.FieldError](err); ok {
		field = e.FieldPath()
	}
	if strings.HasPrefix(reason, "unknown field") {
		reason += " is ignored; see whether it is misspelt"
	}
	d.add(it, field, object, Warning, reason)
}

func (d *decoder) reportIgnored() {
	if len(d.ignored) == 0 {
		return
	}
	var kinds []string
	for _, k := range slices.Sorted(maps.Keys(d.ignored)) {
		kinds = append(kinds, fmt.Sprintf("%s (%d)", k, d.ignored[k]))
	}
	d.problems = append(d.problems, Problem{
		File: d.file, Severity: Warning,
		Reason: "objects of kinds that a proxy does not use are ignored: " + strings.Join(kinds, ", "),
	})
}
