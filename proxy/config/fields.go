package config

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
)

// flatten returns the value of each field of a configuration by its path, as JSON would have it but for the quotes of strings. A
// feature gate is a field, too; a list without entries is none.
func flatten(conf *external) map[string]string {
	raw, err := json.Marshal(conf)
	if err != nil {
		panic("marshal a configuration: " + err.Error())
	}
	var tree map[string]json.RawMessage
	if err := json.Unmarshal(raw, &tree); err != nil {
		panic("unmarshal a configuration: " + err.Error())
	}
	out := map[string]string{}
	flattenInto(out, "", tree)
	return out
}

func flattenInto(out map[string]string, prefix string, tree map[string]json.RawMessage) {
	for key, raw := range tree {
		var below map[string]json.RawMessage
		if raw[0] == '{' && json.Unmarshal(raw, &below) == nil {
			flattenInto(out, prefix+key+".", below)
			continue
		}
		if text := plainJSON(raw); text != "null" && text != "[]" {
			out[prefix+key] = text
		}
	}
}

// plainJSON drops the quotes of a string; an empty one keeps them, to be seen.
func plainJSON(raw []byte) string {
	var s string
	if json.Unmarshal(raw, &s) == nil && s != "" && string(raw) != "null" {
		return s
	}
	return string(raw)
}

// defaultFile is what a file means that sets nothing.
func defaultFile() *external {
	var c external
	setDefaults(&c)
	setDependentDefaults(&c)
	return &c
}

// defaultValues returns the value of each field of a file that sets nothing. It is not to be modified.
var defaultValues = sync.OnceValue(func() map[string]string { return flatten(defaultFile()) })

// fieldPaths returns the path of every field of a configuration. It is not to be modified.
var fieldPaths = sync.OnceValue(func() []string {
	known := []string{"nodePortAddresses", "ipvs.excludeCIDRs", "featureGates", "logging.vmodule", "logging.options.text.splitStream", "logging.options.json.splitStream", "windowsRunAsService"}
	for path := range defaultValues() {
		if !strings.HasPrefix(path, "featureGates.") {
			known = append(known, path)
		}
	}
	slices.Sort(known)
	return slices.Compact(known)
})
