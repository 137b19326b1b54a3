package sync

import (
	"slices"

	"turnout/healthcheck"
	"turnout/proxy"
	"turnout/proxy/desired"
	"turnout/proxy/source"
)

// Preview returns the States that a Loop with these options would have the kernel follow, once deliver has given it all objects, and
// what it would warn of. Only NodeName, Families and Facts of the options are used.
func Preview(o Options, deliver func(source.Sink)) (states []*proxy.State, warnings, problems []string) {
	o.Health = healthcheck.NewProxyHealth(healthcheck.ProxyHealthOptions{Families: o.Families})
	l := New(o)
	deliver(l)
	in := desired.Input{Services: l.services.Snapshot()}
	in.Endpoints, _ = l.endpoints.Snapshot()
	in.Facts, warnings = l.takeFacts(nil)
	r := desired.Build(nil, in)
	for _, f := range o.Families {
		states = append(states, r.States[f])
	}
	for _, list := range r.Problems.All() {
		for _, p := range list {
			problems = append(problems, p.String())
		}
	}
	slices.Sort(problems)
	return states, warnings, problems
}
