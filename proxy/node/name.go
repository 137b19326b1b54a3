package node

import (
	"fmt"
	"strings"
)

// Name returns the name of the Node object that stands for this machine: the override if it is not "", else the operating
// system's host name; without surrounding blanks, in lower case, as the kubelet registers it.
func Name(override, hostname string) (string, error) {
	raw, from := override, "hostname override"
	if override == "" {
		raw, from = hostname, "host name"
	}
	name := strings.ToLower(strings.TrimSpace(raw))
	if name == "" {
		return "", fmt.Errorf("%s %q has no node name in it: set hostnameOverride (--hostname-override) to the name of this Node object", from, raw)
	}
	return name, nil
}
