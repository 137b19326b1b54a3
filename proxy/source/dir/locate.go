package dir

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"

	yaml "go.yaml.in/yaml/v3"
)

// lineOf returns the line in the file of a field such as "items[3].spec.ports[0].port", or of the deepest part of that path
// that the document has. It parses the document once more, so it is for problems only.
func (d *document) lineOf(path string) int {
	if path == "" {
		return d.first
	}
	if d.root == nil {
		d.root = &yaml.Node{}
		_ = yaml.Unmarshal(d.text, d.root) // it was read before; if this parser does not like it, the first line has to do
	}
	if len(d.root.Content) == 0 {
		return d.first
	}
	return d.line - 1 + max(descend(d.root.Content[0], path, 0), 1)
}

// descend returns the line of the node that path leads to from n. A mapping key may have dots itself, so the longest key that
// the path starts with is taken.
func descend(n *yaml.Node, path string, line int) int {
	if n.Kind == yaml.AliasNode {
		return line
	}
	line = max(line, n.Line)
	if index, rest, ok := cutIndex(path); ok && n.Kind == yaml.SequenceNode && index < len(n.Content) {
		return descend(n.Content[index], rest, n.Content[index].Line)
	}
	if n.Kind != yaml.MappingNode {
		return line
	}
	path = strings.TrimPrefix(path, ".")
	var key, value *yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		if leads(path, k.Value) && (key == nil || len(k.Value) >= len(key.Value)) {
			key, value = k, n.Content[i+1] // of a field given twice, the second is the one to point at
		}
	}
	if key == nil {
		return line
	}
	rest := path[len(key.Value):]
	if rest == "" {
		return key.Line
	}
	return max(key.Line, descend(value, rest, key.Line))
}

func leads(path, key string) bool {
	rest, ok := strings.CutPrefix(path, key)
	return ok && key != "" && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// cutIndex splits "[3].spec" into 3 and ".spec".
func cutIndex(path string) (index int, rest string, ok bool) {
	if !strings.HasPrefix(path, "[") {
		return 0, path, false
	}
	digits, rest, ok := strings.Cut(path[1:], "]")
	index, err := strconv.Atoi(digits)
	return index, rest, ok && err == nil && index >= 0
}

// pathAt returns the path of the value that the JSON decoder was reading when it had consumed offset bytes.
func pathAt(data []byte, offset int64) string {
	type level struct {
		array bool
		index int
		key   string
		isKey bool // the next string is a key
	}
	var stack []level
	dec := json.NewDecoder(bytes.NewReader(data))
	for {
		token, err := dec.Token()
		if err != nil {
			return ""
		}
		top := len(stack) - 1
		delim, _ := token.(json.Delim)
		if delim == '}' || delim == ']' {
			stack = stack[:top]
			continue
		}
		if top >= 0 && !stack[top].array && stack[top].isKey {
			stack[top].key, _ = token.(string)
			stack[top].isKey = false
			continue
		}
		if top >= 0 {
			stack[top].index++
			stack[top].isKey = true
		}
		if dec.InputOffset() >= offset {
			break
		}
		if delim != 0 {
			stack = append(stack, level{array: delim == '[', isKey: delim == '{'})
		}
	}
	var b strings.Builder
	for _, l := range stack {
		if l.array {
			b.WriteString("[" + strconv.Itoa(l.index-1) + "]")
			continue
		}
		b.WriteString("." + l.key)
	}
	return strings.TrimPrefix(b.String(), ".")
}

// yamlLine finds the line that the YAML parser names in an error.
var yamlLine = regexp.MustCompile(`line (\d+)(: )?`)

// yamlProblems turns a YAML parser's error, which may have several lines of text with a line number each, into problems with
// the line in the file.
func (d *document) yamlProblems(file string, severity Severity, prefix string, err error) []Problem {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	text = strings.TrimPrefix(text, "unmarshal errors:\n")
	last := bytes.Count(bytes.TrimRight(d.text, "\n"), []byte("\n")) + 1 // the parser may count beyond it
	var out []Problem
	for part := range strings.Lines(text) {
		part = strings.TrimSpace(part)
		line := d.first
		if m := yamlLine.FindStringSubmatch(part); m != nil {
			n, _ := strconv.Atoi(m[1])
			line, part = d.line-1+min(max(n, 1), last), strings.Replace(part, m[0], "", 1)
		}
		out = append(out, Problem{
			File: file, Line: line, Document: d.number, Severity: severity, Reason: prefix + strings.TrimPrefix(part, "yaml: "),
		})
	}
	return out
}
