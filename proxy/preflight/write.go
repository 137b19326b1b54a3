package preflight

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// Write writes a report as text, a line for each finding and one at the end.
func (r *Report) Write(w io.Writer) error {
	var last Topic
	for _, f := range r.Findings {
		if f.Topic != last {
			fmt.Fprintln(w, f.Topic)
			last = f.Topic
		}
		fmt.Fprintf(w, "  %-8s %s\n", f.Level, f)
	}
	_, err := fmt.Fprintln(w, r.Summary())
	return err
}

// Summary is such as "mode nftables: ok", "mode ipvs: 2 blocked, 1 warning" or "mode auto: 3 blocked".
func (r *Report) Summary() string {
	count := map[Level]int{}
	for _, f := range r.Findings {
		count[f.Level]++
	}
	mode := r.Mode
	if mode == "" {
		mode = r.Asked
	}
	if r.Level == OK {
		return fmt.Sprintf("mode %s: ok", mode)
	}
	var parts []string
	if n := count[Blocked]; n > 0 {
		parts = append(parts, fmt.Sprintf("%d blocked", n))
	}
	switch n := count[Warning]; n {
	case 0:
	case 1:
		parts = append(parts, "1 warning")
	default:
		parts = append(parts, fmt.Sprintf("%d warnings", n))
	}
	return fmt.Sprintf("mode %s: %s", mode, strings.Join(parts, ", "))
}

// WriteJSON writes a report as one JSON object.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}
