package iptables

import (
	"fmt"
	"maps"
	"slices"
)

// Obstacles describes the rules of other programs that keep the programs of iptables from reading the tables nat, filter and mangle. They do not keep this
// Backend from writing there.
func (b *Backend) Obstacles() ([]string, error) {
	byTable, err := b.obstacles()
	if err != nil {
		return nil, err
	}
	return slices.Concat(byTable[nat], byTable[filter], byTable[mangle]), nil
}

// obstacles is Obstacles by table, each of which has an entry.
func (b *Backend) obstacles() (map[string][]string, error) {
	rules, err := b.kernel.obstacles()
	if err != nil {
		return nil, fmt.Errorf("look for rules that cannot be read, for %s: %w", b.options.Family, err)
	}
	out := map[string][]string{}
	for _, table := range tables {
		out[table] = nil
	}
	for _, r := range rules {
		out[r.Table] = append(out[r.Table], r.String())
	}
	return out, nil
}

// tellObstacles tells the owner of the Backend what is in the way, if that is not what it was told last.
func (b *Backend) tellObstacles() error {
	if b.options.Obstructed == nil {
		return nil
	}
	now, err := b.obstacles()
	if err != nil {
		return err
	}
	if b.obstructed == nil || !maps.EqualFunc(b.obstructed, now, slices.Equal[[]string]) {
		b.obstructed = now
		b.options.Obstructed(maps.Clone(now))
	}
	return nil
}
