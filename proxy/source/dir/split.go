package dir

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"

	yaml "go.yaml.in/yaml/v3"
)

// document is one YAML or JSON document of a file.
type document struct {
	number int // counted from 1; documents without content do not count
	line   int // of the first line of text, counted from 1
	first  int // line of the first content: comments and blank lines are passed over
	text   []byte
	json   bool
	root   *yaml.Node // parsed when a line is asked for
}

// split cuts a file into its documents. What cannot be cut (JSON that is not well-formed) is a problem; documents before it
// are returned.
func split(file string, data []byte) ([]*document, []Problem) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if strings.HasSuffix(file, ".json") {
		return splitJSON(file, data)
	}
	return splitYAML(data), nil
}

// splitYAML cuts at the lines that YAML 1.2 (9.1.2) reserves for it: "---" and "..." in the first column, in block scalars too.
func splitYAML(data []byte) []*document {
	var out []*document
	begin, first, line := 0, 1, 1
	add := func(end int) {
		text := data[begin:end]
		if skip, ok := leading(text); ok {
			out = append(out, &document{number: len(out) + 1, line: first, first: first + skip, text: text})
		}
	}
	for at := 0; at < len(data); line++ {
		next := len(data)
		if i := bytes.IndexByte(data[at:], '\n'); i >= 0 {
			next = at + i + 1
		}
		if marker(data[at:next]) {
			add(at)
			begin, first = at+3, line // what follows the marker on its line belongs to the new document
		}
		at = next
	}
	add(len(data))
	return out
}

// marker reports whether a line starts or ends a document.
func marker(line []byte) bool {
	if !bytes.HasPrefix(line, []byte("---")) && !bytes.HasPrefix(line, []byte("...")) {
		return false
	}
	return len(line) == 3 || strings.IndexByte(" \t\r\n", line[3]) >= 0
}

// leading returns how many lines of a YAML text come before its first content, which is anything but blank lines, comments and
// directives; false if there is none.
func leading(text []byte) (lines int, ok bool) {
	for line := range bytes.Lines(text) {
		bare := bytes.TrimSpace(line)
		if len(bare) > 0 && bare[0] != '#' && line[0] != '%' {
			return lines, true
		}
		lines++
	}
	return lines, false
}

func splitJSON(file string, data []byte) ([]*document, []Problem) {
	var out []*document
	dec := json.NewDecoder(bytes.NewReader(data))
	for {
		var text json.RawMessage
		begin := dec.InputOffset()
		err := dec.Decode(&text)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, []Problem{{
				File: file, Line: lineAt(data, jsonErrorOffset(err, len(data))), Document: len(out) + 1, Severity: Error,
				Reason: "is not JSON: " + strings.TrimPrefix(err.Error(), "json: "),
			}}
		}
		begin += int64(len(data[begin:]) - len(bytes.TrimLeft(data[begin:], " \t\r\n")))
		line := lineAt(data, int(begin))
		out = append(out, &document{number: len(out) + 1, line: line, first: line, text: text, json: true})
	}
}

// jsonErrorOffset returns where in the data a JSON error is; size, the end, if it says nothing.
func jsonErrorOffset(err error, size int) int {
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return int(e.Offset)
	}
	return size
}

// lineAt returns the line of a byte offset, counted from 1.
func lineAt(data []byte, offset int) int {
	return 1 + bytes.Count(data[:min(max(offset, 0), len(data))], []byte("\n"))
}
