package cases

import (
	"embed"
	"fmt"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/tools/txtar"

	"turnout/proxy"
	"turnout/proxy/config"
	"turnout/proxy/node"
	"turnout/proxy/proxytest"
	"turnout/proxy/source"
	"turnout/proxy/source/dir"
	"turnout/proxy/sync"
)

// Names of the files in a case's archive. Every backend adds one of its own, with the text that it makes of the States.
const (
	// Flags holds the proxy's command line flags, separated by white space; it may be missing.
	Flags = "flags"
	// Addresses holds the addresses of the machine, separated by white space; it may be missing.
	Addresses = "addresses"
	// Objects holds the manifests.
	Objects = "objects.yaml"
	// States holds the States as proxy.WriteText writes them, and in front of them what a user would be told.
	States = "states"
)

//go:embed testdata/*.txtar
var files embed.FS

// Case is one golden case.
type Case struct {
	// Name is the file's name without extension.
	Name string
	// States has one State for each family, in the order of proxy.Families.
	States []*proxy.State
	// Notes are the warnings, problems and rejections that come with the States, a line each.
	Notes []string

	archive *txtar.Archive
}

// All returns every case, in the order of their names. It needs no kernel and no privileges. A case that cannot be read ends the test.
func All(t interface {
	proxytest.T
	TempDir() string
}) []*Case {
	t.Helper()
	names, err := files.ReadDir("testdata")
	if err != nil {
		t.Fatalf("%v", err)
	}
	var out []*Case
	for _, n := range names {
		data, err := files.ReadFile(path.Join("testdata", n.Name()))
		if err != nil {
			t.Fatalf("%v", err)
		}
		c := &Case{Name: strings.TrimSuffix(n.Name(), ".txtar"), archive: txtar.Parse(data)}
		if err := c.build(t.TempDir()); err != nil {
			t.Fatalf("case %s: %v", c.Name, err)
		}
		out = append(out, c)
	}
	return out
}

// Text returns the named file of the case; "" if there is none.
func (c *Case) Text(name string) string { return text(c.archive, name) }

func text(a *txtar.Archive, name string) string {
	for _, f := range a.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

// build makes the States as the proxy would on a node called n1.
func (c *Case) build(temp string) error {
	if err := os.WriteFile(filepath.Join(temp, "objects.yaml"), []byte(c.Text(Objects)), 0o600); err != nil {
		return err
	}
	facts, err := c.facts(temp)
	if err != nil {
		return err
	}
	objects, problems, err := dir.Load(temp, nodeName)
	if err != nil {
		return err
	}
	for _, p := range problems {
		c.Notes = append(c.Notes, p.String())
	}
	options := sync.Options{NodeName: nodeName, Families: proxy.Families[:], Facts: *facts}
	states, warnings, rejected := sync.Preview(options, func(s source.Sink) { objects.Deliver(s) })
	c.States, c.Notes = states, append(append(c.Notes, warnings...), rejected...)
	for _, s := range states {
		if err := proxytest.Check(s); err != nil {
			return fmt.Errorf("%s: %w", s.Family, err)
		}
	}
	return nil
}

// nodeName is the node under test, as in proxytest.Addressing.
const nodeName = "n1"

func (c *Case) facts(manifests string) (*sync.FactsConfig, error) {
	f := config.NewFlags()
	f.Parse(append(strings.Fields(c.Text(Flags)), "--manifests="+manifests, "--hostname-override="+nodeName))
	cfg, err := f.Config(os.ReadFile)
	if err != nil {
		return nil, err
	}
	local := map[proxy.Family][]netip.Addr{}
	for s := range strings.FieldsSeq(c.Text(Addresses)) {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, err
		}
		local[proxy.FamilyOf(a)] = append(local[proxy.FamilyOf(a)], a)
	}
	n, d := cfg.NodePortAddresses, cfg.DetectLocal
	return &sync.FactsConfig{
		BindAddress:   cfg.BindAddress,
		NodePorts:     node.NodePortConfig{Prefixes: n.Prefixes, Primary: n.Primary, Localhost: n.Localhost, All: n.All, DefaultPrimary: true},
		Pods:          node.PodDetection{Mode: node.PodMode(d.Mode), ClusterCIDRs: cfg.ClusterCIDRs, Bridge: d.BridgeInterface, InterfacePrefix: d.InterfaceNamePrefix},
		MasqueradeAll: cfg.MasqueradeAll, MasqueradeBit: cfg.MasqueradeBit, ExternalIPs: cfg.Features.ExternalIPs,
		Local: func(f proxy.Family) []netip.Addr { return local[f] },
	}, nil
}
