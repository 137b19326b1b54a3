package node

import (
	"strings"
	"testing"
)

func TestName(t *testing.T) {
	for _, tt := range []struct{ name, override, hostname, want string }{
		{"the host name", "", "worker-1", "worker-1"},
		{"in lower case", "", "Worker-1.Example.ORG", "worker-1.example.org"},
		{"override comes first", "node-7", "worker-1", "node-7"},
		{"override is trimmed and lower-cased", "  Node-7\n", "worker-1", "node-7"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Name(tt.override, tt.hostname)
			if err != nil || got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestNameOfBlanksIsRefused(t *testing.T) {
	for _, tt := range []struct{ override, hostname, tells string }{
		{"  ", "worker-1", "hostname override"}, {"", "", "host name"}, {"", " \t", "host name"},
	} {
		if got, err := Name(tt.override, tt.hostname); err == nil || !strings.Contains(err.Error(), tt.tells) || !strings.Contains(err.Error(), "--hostname-override") {
			t.Errorf("%q, %q: got %q, %v", tt.override, tt.hostname, got, err)
		}
	}
}
