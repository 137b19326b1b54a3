package desired

import (
	"turnout/proxy"
	"turnout/proxy/hamt"
	"turnout/proxy/track"
)

// Problem says what of a Service is not served as it asks for, and what to do about it.
type Problem = track.Problem

// Input is all that the States depend on.
type Input struct {
	Services  hamt.Map[proxy.ServiceName, *track.Service]
	Endpoints hamt.Map[proxy.ServiceName, *track.Endpoints]
	Facts     *Facts // not nil
}

// Result is what Build returns. It is immutable.
type Result struct {
	// States has the State of each family in use.
	States map[proxy.Family]*proxy.State
	// Problems has all current problems of each Service that has any, those of its EndpointSlices included. The entries of
	// Services whose problems did not change are the same from one Result to the next: hamt.Diff finds the new ones.
	Problems hamt.Map[proxy.ServiceName, []Problem]
	// NoLocal counts, for each family in use, the Services of which a Local traffic policy finds endpoints elsewhere only.
	NoLocal map[proxy.Family]NoLocal

	in     Input
	claims claims
}

// NoLocal counts Services of a State, which are ports of Service objects.
type NoLocal struct{ Internal, External int }

// Build returns what the kernel should do. It is pure, and its result has the same contents whatever prev is; prev, which may
// be nil, makes the work proportional to what changed, and what is unchanged keeps its pointer: each State, its Node, and
// each Service.
func Build(prev *Result, in Input) *Result {
	b := newBuilder(prev, in)
	if prev == nil || !in.Facts.sameForServices(prev.in.Facts) {
		b.dirtyAll()
	} else {
		b.claims = prev.claims.Edit()
		b.dirtyChanged()
	}
	for name := range b.dirty {
		b.rebuild(name)
	}
	return b.result()
}

// builder is a Result in the making.
type builder struct {
	prev     *Result
	old, in  Input
	claims   *hamt.Builder[claimKey, []claim]
	dirty    map[proxy.ServiceName]struct{}
	families []*family
	problems *hamt.Builder[proxy.ServiceName, []Problem]
}

// family is what a builder has of one family.
type family struct {
	proxy.Family
	services *hamt.Builder[proxy.ServicePortName, *proxy.Service]
	health   *hamt.Builder[proxy.ServiceName, proxy.HealthCheck]
	noLocal  NoLocal
}

func newBuilder(prev *Result, in Input) *builder {
	b := &builder{prev: prev, in: in, dirty: map[proxy.ServiceName]struct{}{}, claims: claims{}.Edit()}
	var problems hamt.Map[proxy.ServiceName, []Problem]
	if prev != nil {
		b.old, problems = prev.in, prev.Problems
	}
	b.problems = problems.Edit()
	for _, fam := range proxy.Families {
		if !in.Facts.has(fam) {
			continue
		}
		f := &family{Family: fam}
		before := &proxy.State{}
		if s := b.state(fam); s != nil {
			before, f.noLocal = s, prev.NoLocal[fam]
		}
		f.services, f.health = before.Services.Edit(), before.HealthChecks.Edit()
		b.families = append(b.families, f)
	}
	return b
}

// state returns the previous State of a family, nil if there is none.
func (b *builder) state(fam proxy.Family) *proxy.State {
	if b.prev == nil {
		return nil
	}
	return b.prev.States[fam]
}

// dirtyAll makes claims anew and marks everything that is or was.
func (b *builder) dirtyAll() {
	for name := range b.old.Services.All() {
		b.mark(name)
	}
	for name, s := range b.in.Services.All() {
		b.mark(name)
		b.replaceClaims(nil, s)
	}
}

// dirtyChanged marks the Services that changed, those whose endpoints did, and those whose claims win or lose by it.
func (b *builder) dirtyChanged() {
	for _, c := range hamt.Diff(b.old.Services, b.in.Services, same[track.Service]) {
		b.mark(c.Key)
		b.replaceClaims(c.Old, c.New)
	}
	for _, c := range hamt.Diff(b.old.Endpoints, b.in.Endpoints, same[track.Endpoints]) {
		b.mark(c.Key)
	}
}

func same[T any](x, y *T) bool { return x == y }

func (b *builder) mark(name proxy.ServiceName) { b.dirty[name] = struct{}{} }

func (b *builder) result() *Result {
	r := &Result{
		States:   make(map[proxy.Family]*proxy.State, len(b.families)),
		NoLocal:  make(map[proxy.Family]NoLocal, len(b.families)),
		Problems: b.problems.Map(), in: b.in, claims: b.claims.Map(),
	}
	for _, f := range b.families {
		r.States[f.Family] = b.newState(f)
		r.NoLocal[f.Family] = f.noLocal
	}
	return r
}

// newState returns the previous State if it would not differ.
func (b *builder) newState(f *family) *proxy.State {
	node := b.in.Facts.Node[f.Family]
	s := &proxy.State{Family: f.Family, Node: &node, Services: f.services.Map(), HealthChecks: f.health.Map()}
	old := b.state(f.Family)
	if old == nil {
		return s
	}
	if old.Node.Equal(s.Node) {
		s.Node = old.Node
	}
	if s.Node == old.Node && s.Services.Same(old.Services) && s.HealthChecks.Same(old.HealthChecks) {
		return old
	}
	return s
}

// Facts returns the facts that the Result was made of.
func (r *Result) Facts() *Facts { return r.in.Facts }
