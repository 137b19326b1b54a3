package iptables

import (
	"context"
	"fmt"
	"strings"

	"turnout/proxy"
)

// A trial is a rule that the programs and the kernel must take, and the table that it is for.
type trial struct{ table, rule string }

// probeChain is where rules are tried. Nothing leads to it, and it is there for a moment only.
const probeChain = "KUBE-PROXY-PROBE"

// try has the kernel take rules, out of every packet's way, and removes them again. The error names the one that was refused, if that is told, as
// iptables-legacy does not of what the kernel refuses.
func (b *Backend) try(ctx context.Context, trials ...trial) (told bool, err error) {
	s := &script{}
	for _, table := range tables {
		x := s.section(table)
		for _, t := range trials {
			if t.table == table {
				x.append(probeChain, t.rule, nil)
			}
		}
		if len(x.rules) > 0 {
			x.declare(probeChain, nil)
			s.section(table).drop(probeChain, nil)
		}
	}
	text, _ := s.text()
	err = b.kernel.restore(ctx, text)
	if _, rule, _ := s.refused(err); strings.HasPrefix(rule, "-A ") {
		return true, tried(rule, err)
	}
	return false, err
}

func tried(rule string, err error) error {
	return fmt.Errorf("try what rules may need, %q: %w", rule, err)
}

// needs are rules of each kind that every State may need.
func (b *Backend) needs() []trial {
	return []trial{
		{nat, "-m comment --comment probe -m addrtype --dst-type LOCAL -j ACCEPT"}, {nat, "-m statistic --mode random --probability 0.50000000000 -j ACCEPT"},
		{nat, "-p tcp -m tcp --dport 1 -j DNAT --to-destination " + b.nowhere()}, {nat, "-p udp -m udp --dport 1 -j DNAT --to-destination " + b.nowhere()},
		{nat, "-m mark --mark 0x1/0x1 -j MARK --set-xmark 0x1/0x0"}, {nat, "-j MASQUERADE --random-fully"},
		{filter, translated}, {filter, "-p tcp -j REJECT --reject-with tcp-reset"}, {filter, "-j REJECT"},
	}
}

// nowhere is an endpoint that nobody has (RFC 5737, RFC 3849).
func (b *Backend) nowhere() string {
	if b.options.Family == proxy.IPv6 {
		return "[2001:db8::1]:80"
	}
	return "192.0.2.1:80"
}

// A lack is what some Services need and this node does not have. They are left out, and the others are served.
type lack struct {
	what   string
	trials []trial
	needed func(*proxy.Service) bool
	err    error
}

// optional are the parts that only some Services need, which kernels for small machines may lack.
func (b *Backend) optional() []lack {
	return []lack{
		{what: "SCTP", needed: func(s *proxy.Service) bool { return s.Name.Protocol == proxy.SCTP },
			trials: []trial{{nat, "-p sctp -m sctp --dport 1 -j DNAT --to-destination " + b.nowhere()}}},
		{what: "session affinity", needed: func(s *proxy.Service) bool { return s.Affinity > 0 },
			trials: []trial{{nat, "-m recent --name " + probeChain + " --rcheck --seconds 1 --reap -j ACCEPT"}, {nat, "-m recent --name " + probeChain + " --set -j ACCEPT"}}},
	}
}

// probe tries whether rules can be written at all, and finds out what is lacking for some Services.
func (b *Backend) probe(ctx context.Context) error {
	if told, err := b.try(ctx, b.needs()...); err != nil {
		if refused(err) && !told {
			return b.nameTrial(ctx, err)
		}
		return err
	}
	b.options.lacks = nil
	for _, l := range b.optional() {
		switch _, l.err = b.try(ctx, l.trials...); {
		case l.err == nil:
		case !refused(l.err):
			return l.err
		default:
			b.options.lacks = append(b.options.lacks, l)
			b.choice.Lacks = append(b.choice.Lacks, fmt.Sprintf("Services with %s are left out: %s", l.what, oneLine(l.err)))
		}
	}
	return nil
}

// nameTrial finds the rule that was refused by trying them one by one. If none is taken, it is no rule's fault.
func (b *Backend) nameTrial(ctx context.Context, err error) error {
	var named error
	taken := false
	for _, t := range b.needs() {
		switch _, one := b.try(ctx, t); {
		case one == nil:
			taken = true
		case named == nil:
			named = tried(t.rule, one)
		}
	}
	if taken && named != nil {
		return named
	}
	return err
}

// lacking says why a Service cannot be served on this node, nil if it can.
func (o *Options) lacking(s *proxy.Service) error {
	for _, l := range o.lacks {
		if l.needed(s) {
			return fmt.Errorf("this node cannot do %s in mode iptables: %w", l.what, l.err)
		}
	}
	return nil
}
