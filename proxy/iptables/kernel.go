package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"turnout/proxy/nftables/compat"
)

// A kernel carries out scripts, and tells what is there. It is the seam at which tests make the programs and the kernel fail.
type kernel interface {
	// restore carries out a script.
	restore(ctx context.Context, text []byte) error
	// chunk is how many Services' chains are made at a time when all are; 0 for all.
	chunk() int
	// look finds out what there is of ours.
	look(ctx context.Context) (*found, error)
	// unjump deletes our jumps but for the first so many of each.
	unjump(ctx context.Context, keep keeper) error
	// damage says what is missing of what was written, "" if nothing is.
	damage(ctx context.Context, want *expectation) (string, error)
	// obstacles are rules of others in the tables of ours that the programs cannot read.
	obstacles() ([]compat.Rule, error)
}

// expectation is what must be there.
type expectation struct {
	rules  map[string][]chain // that never change, by table
	chains int                // of Services, in table nat
}

func openKernel(p *programs) kernel {
	if p.variant == Legacy {
		return &legacyKernel{p}
	}
	return &nftKernel{programs: p, reader: compat.New(p.family)}
}

// legacyKernel is the kernel as iptables-legacy shows it.
type legacyKernel struct{ *programs }

// chunk is all: every script, however short, has the program read and write the whole table.
func (k *legacyKernel) chunk() int { return 0 }

func (k *legacyKernel) look(ctx context.Context) (*found, error) {
	f, _, err := k.read(ctx, keepFirst)
	return f, err
}

// read returns what there is, and deletions of our jumps but for the first so many of each, by table.
func (k *legacyKernel) read(ctx context.Context, keep keeper) (*found, map[string][]string, error) {
	f, surplus := newFound(), map[string][]string{}
	for _, table := range tables {
		text, err := k.save(ctx, table)
		if err != nil {
			return nil, nil, err
		}
		surplus[table] = f.parseSave(table, text, keep)
	}
	return f, surplus, nil
}

func (k *legacyKernel) unjump(ctx context.Context, keep keeper) error {
	_, surplus, err := k.read(ctx, keep)
	if err != nil {
		return err
	}
	s := &script{}
	for _, table := range tables {
		x := s.section(table)
		for _, text := range surplus[table] {
			x.rules = append(x.rules, line{text: text})
		}
	}
	if s.operations() == 0 {
		return nil
	}
	text, _ := s.text()
	return k.restore(ctx, text)
}

// damage has one program look for all rules at once. Where it misses a jump there may be one that looks unlike ours, which is as good.
func (k *legacyKernel) damage(ctx context.Context, want *expectation) (string, error) {
	damage, err := k.missing(ctx, want, true)
	if err != nil || damage == "" {
		return "", err
	}
	if f, err := k.look(ctx); err != nil || f.once() != "" {
		return damage, err
	}
	return k.missing(ctx, want, false)
}

// missing says which rule is not there, "" if all are.
func (k *legacyKernel) missing(ctx context.Context, want *expectation, jumps bool) (string, error) {
	s := &script{}
	for _, table := range tables {
		x := s.section(table)
		for i := range Jumps {
			if j := &Jumps[i]; jumps && j.Table == table {
				x.check(j.From, j.rule())
			}
		}
		for _, c := range want.rules[table] {
			for _, r := range c.rules {
				x.check(c.name, r)
			}
		}
	}
	text, _ := s.text()
	err := k.test(ctx, text)
	var e *Error
	if errors.As(err, &e) && e.Kind == Refused {
		return missingLine(text, e.Line), nil
	}
	return "", err
}

func (k *legacyKernel) obstacles() ([]compat.Rule, error) { return nil, nil }

// nftKernel is the kernel as iptables-nft shows it. What is there is read over netlink, since the programs fail where another program wrote a rule
// natively.
type nftKernel struct {
	*programs
	reader     *compat.Reader
	generation uint32 // when nothing was missing; 0 if not known
	// strange is what was in the way when the generation was looked.
	strange []compat.Rule
	looked  uint32
}

func (k *nftKernel) restore(ctx context.Context, text []byte) error {
	err := k.programs.restore(ctx, text)
	var e *Error
	if errors.As(err, &e) && e.Kind == Incompatible {
		rules, _ := k.obstacles() // the first error tells more than why there is no list
		for _, r := range rules {
			e.Rules = append(e.Rules, r.String())
		}
	}
	return err
}

// chunk bounds the time that iptables-nft-restore takes, which grows with the square of the number of chains in its input: for each line it looks for the
// chain in a list. For 10,000 Services of 5 endpoints it is a fifth with 20 scripts rather than one.
func (k *nftKernel) chunk() int { return 500 }

func (k *nftKernel) look(context.Context) (*found, error) {
	f, _, err := k.read()
	return f, err
}

// read returns what there is, and all jumps, in their order.
func (k *nftKernel) read() (*found, []compat.Rule, error) {
	chains, err := k.reader.Chains(tables[:]...)
	if err != nil {
		return nil, nil, err
	}
	f, jumps := newFound(), []compat.Rule(nil)
	for _, c := range chains {
		if Owns(c.Table, c.Name) {
			f.chains[c.Table] = append(f.chains[c.Table], c.Name)
		}
		if !c.Base {
			continue
		}
		rules, err := k.reader.Rules(c.Table, c.Name)
		if err != nil {
			return nil, nil, err
		}
		for _, r := range rules {
			if _, ok := f.add(c.Table, c.Name, r.Jump); ok {
				jumps = append(jumps, r)
			}
		}
	}
	return f, jumps, nil
}

func (k *nftKernel) unjump(_ context.Context, keep keeper) error {
	_, jumps, err := k.read()
	if err != nil {
		return err
	}
	seen := newFound()
	surplus := slices.DeleteFunc(jumps, func(r compat.Rule) bool {
		j, _ := seen.add(r.Table, r.Chain, r.Jump)
		return seen.jumps[*j] <= keep(j)
	})
	if len(surplus) == 0 {
		return nil
	}
	return k.reader.Delete(surplus...)
}

// damage looks only if anybody changed anything since it looked last, this process included: which changes are whose is not known, and one of its own must not hide
// that of another.
func (k *nftKernel) damage(_ context.Context, want *expectation) (string, error) {
	now, err := compat.Generation()
	if err != nil {
		return "", err
	}
	if now == k.generation {
		return "", nil
	}
	f, _, err := k.read()
	if err != nil {
		return "", err
	}
	if wrong := f.once(); wrong != "" {
		return wrong, nil
	}
	if n := len(f.chains[nat]) - len(staticChains[nat]); n != want.chains {
		return fmt.Sprintf("table nat has %d chains of Services, not %d", n, want.chains), nil
	}
	for _, table := range tables {
		for _, c := range want.rules[table] {
			if !slices.Contains(f.chains[table], c.name) {
				return fmt.Sprintf("chain %s of table %s is gone", c.name, table), nil
			}
			rules, err := k.reader.Rules(table, c.name)
			if err != nil {
				return "", err
			}
			if len(rules) < len(c.rules) {
				return fmt.Sprintf("chain %s of table %s has lost rules", c.name, table), nil
			}
		}
	}
	k.generation = now // or older than what was read, if something was changed meanwhile
	return "", nil
}

// obstacles looks only if anybody changed anything since it looked last.
func (k *nftKernel) obstacles() ([]compat.Rule, error) {
	now, err := compat.Generation()
	if err != nil {
		return nil, err
	}
	if now == k.looked {
		return k.strange, nil
	}
	if k.strange, err = k.readObstacles(); err == nil {
		k.looked = now
	}
	return k.strange, err
}

func (k *nftKernel) readObstacles() ([]compat.Rule, error) {
	chains, err := k.reader.Chains(tables[:]...)
	if err != nil {
		return nil, err
	}
	var out []compat.Rule
	for _, c := range chains {
		if Owns(c.Table, c.Name) {
			continue
		}
		rules, err := k.reader.Rules(c.Table, c.Name)
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			if len(r.Strange) > 0 {
				out = append(out, r)
			}
		}
	}
	return out, nil
}
