package ipvs

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"turnout/proxy/ipvs/genl"
)

// checkAtOnce bounds how many virtual servers have their destinations looked at by one Check; over several calls it is each one's turn.
const checkAtOnce = 64

// Check tells whether what Apply made is still there: the addresses, the virtual servers, the table, and the destinations of some virtual servers, in turn.
// damage says what is missing, "" if nothing is: Forget and Apply mend it. Before the first Apply, and after Forget, there is nothing to look
// for. It also deletes destinations on their way out that have no connections any longer, so it is to be called every now and then.
func (b *Backend) Check(context.Context) (damage string, err error) {
	if b.applied == nil {
		return "", nil
	}
	if err := b.drain(); err != nil {
		return "", err
	}
	for _, look := range []func() (string, error){b.checkAddresses, b.checkServers, b.checkDestinations, b.checkGate} {
		if damage, err := look(); damage != "" || err != nil {
			return damage, err
		}
	}
	return "", nil
}

func (b *Backend) checkAddresses() (string, error) {
	ours, others, err := b.kernel.device.Addresses()
	if err != nil {
		return "", err
	}
	if ours == nil {
		return fmt.Sprintf("interface %s is missing", Device), nil
	}
	for a := range b.applied.addrs {
		if !ours[a] {
			return fmt.Sprintf("interface %s lacks address %s", Device, a), nil
		}
	}
	for a := range b.applied.uses {
		if others[a] && !b.applied.own[a] {
			return fmt.Sprintf("address %s of a Service is on another interface, too", a), nil
		}
		if !others[a] && b.applied.own[a] {
			return fmt.Sprintf("address %s of a Service is on no interface any longer", a), nil
		}
	}
	return "", nil
}

func (b *Backend) checkServers() (string, error) {
	list, err := b.kernel.servers.Servers(b.options.Family)
	if err != nil {
		return "", err
	}
	missing := len(b.applied.servers)
	for _, x := range list {
		v := b.applied.servers[x.Key]
		if v == nil {
			continue
		}
		if v.Server != x {
			return fmt.Sprintf("virtual server %s was changed", x.Key), nil
		}
		missing--
	}
	if missing == 0 {
		return "", nil
	}
	there := map[genl.Key]bool{}
	for _, x := range list {
		there[x.Key] = true
	}
	for _, key := range slices.SortedFunc(maps.Keys(b.applied.servers), genl.Key.Compare) {
		if !there[key] {
			return fmt.Sprintf("virtual server %s is missing", key), nil
		}
	}
	return "", nil
}

func (b *Backend) checkDestinations() (string, error) {
	if len(b.turn) == 0 {
		b.turn = slices.Collect(maps.Keys(b.applied.servers))
	}
	now := b.turn[:min(len(b.turn), checkAtOnce)]
	b.turn = b.turn[len(now):]
	for _, key := range now {
		v := b.applied.servers[key]
		if v == nil {
			continue // gone since its turn was decided
		}
		list, err := b.kernel.servers.Destinations(key)
		if err != nil {
			return "", err
		}
		left := maps.Clone(v.weights)
		for _, d := range list {
			if weight, ok := v.weights[d.At]; !ok || weight != d.Weight {
				return fmt.Sprintf("destination %s of virtual server %s was changed", d.At, key), nil
			}
			delete(left, d.At)
		}
		for at := range left {
			return fmt.Sprintf("destination %s of virtual server %s is missing", at, key), nil
		}
	}
	return "", nil
}

func (b *Backend) checkGate() (string, error) {
	intact, err := b.kernel.gate.Intact()
	if err == nil && !intact {
		return "the table of rules is missing", nil
	}
	return "", err
}

// drain deletes destinations on their way out that have no connections left.
func (b *Backend) drain() error {
	for _, key := range slices.SortedFunc(maps.Keys(b.applied.draining), genl.Key.Compare) {
		v := b.applied.servers[key]
		list, err := b.kernel.servers.Destinations(key)
		if err != nil {
			return err
		}
		for _, d := range list {
			if weight, ours := v.weights[d.At]; !ours || weight != 0 || d.Weight != 0 || d.Active+d.Inactive > 0 {
				continue
			}
			if err := b.do(&change{kind: deleteDestination, owner: v.owner, Server: v.Server, destination: d}); err != nil {
				return err
			}
		}
		if !v.drains() {
			delete(b.applied.draining, key)
		}
	}
	return nil
}
