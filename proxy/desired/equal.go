package desired

import (
	"slices"

	"turnout/proxy"
)

// equal compares the contents of two Services.
func equal(a, b *proxy.Service) bool {
	return a.Name == b.Name && a.Affinity == b.Affinity && a.NoLocalInternal == b.NoLocalInternal && a.NoLocalExternal == b.NoLocalExternal &&
		slices.Equal(a.Serving, b.Serving) && slices.Equal(a.Cluster, b.Cluster) && slices.Equal(a.Local, b.Local) &&
		slices.EqualFunc(a.Frontends, b.Frontends, equalFrontends)
}

func equalFrontends(a, b proxy.Frontend) bool {
	return a.Kind == b.Kind && a.Addr == b.Addr && a.Port == b.Port && a.Actions == b.Actions &&
		slices.Equal(a.AllowedSources, b.AllowedSources)
}
