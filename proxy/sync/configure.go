package sync

import (
	v1 "k8s.io/api/core/v1"

	"turnout/proxy"
)

// Configure replaces the configuration of facts and timing. The next sync takes it as a whole, and is soon. A configuration that cannot work
// on the node as it is now is refused, and changes nothing.
func (l *Loop) Configure(f FactsConfig, t Timing) error {
	if err := l.Check(f); err != nil {
		return err
	}
	l.change(func(i *inputs) { i.facts, i.timing = f, t })
	return nil
}

// Check tells whether a configuration can work on the node as it is now.
func (l *Loop) Check(f FactsConfig) error {
	return f.Check(l.inUse(), l.node())
}

func (l *Loop) inUse() []proxy.Family {
	families := make([]proxy.Family, len(l.families))
	for i, f := range l.families {
		families[i] = f.Family
	}
	return families
}

func (l *Loop) node() *v1.Node {
	l.inputs.mu.Lock()
	defer l.inputs.mu.Unlock()
	return l.inputs.node
}

func (l *Loop) timing() Timing {
	l.inputs.mu.Lock()
	defer l.inputs.mu.Unlock()
	return l.inputs.timing
}
