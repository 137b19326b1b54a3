package iptables

import (
	"os"
	"path/filepath"
	"testing"

	"turnout/proxy"
)

// All three programs of one name are needed, of whatever variant; that they cannot be run does not matter.
func TestInstalled(t *testing.T) {
	for _, test := range []struct {
		names []string
		want  bool
	}{
		{nil, false},
		{[]string{"ip6tables", "ip6tables-restore"}, false},
		{[]string{"iptables", "iptables-restore", "iptables-save"}, false},
		{[]string{"ip6tables-legacy", "ip6tables-nft-restore", "ip6tables-save"}, false},
		{[]string{"ip6tables", "ip6tables-restore", "ip6tables-save"}, true},
		{[]string{"ip6tables-legacy", "ip6tables-legacy-restore", "ip6tables-legacy-save"}, true},
	} {
		dir := t.TempDir()
		for _, name := range test.names {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		err := Installed(Options{Family: proxy.IPv6, Path: dir})
		if (err == nil) != test.want || err != nil && kindOf(err) != Missing {
			t.Errorf("%v: %v", test.names, err)
		}
	}
}
