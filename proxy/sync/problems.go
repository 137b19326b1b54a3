package sync

import (
	"slices"
	"strings"

	"k8s.io/klog/v2"

	"turnout/proxy"
	"turnout/proxy/desired"
	"turnout/proxy/hamt"
)

// Reasons of events.
const (
	// ReasonInvalid is the reason of events about fields of a Service or its EndpointSlices that cannot be used.
	ReasonInvalid = "ServiceNotFullyProxied"
	// ReasonRejected is the reason of events about Services that the kernel refused.
	ReasonRejected = "ServiceRejectedByKernel"
)

// problemLog reports problems to the log and as events, each once for as long as it lasts.
type problemLog struct {
	events   Events
	warnings []string
	refused  map[rejection]string
}

type rejection struct {
	family proxy.Family
	name   proxy.ServicePortName
}

func newProblemLog(e Events) problemLog {
	return problemLog{events: e, refused: map[rejection]string{}}
}

// warn logs warnings that were not there before; nil stands for no change.
func (p *problemLog) warn(logger klog.Logger, warnings []string) {
	if warnings == nil {
		return
	}
	for _, w := range warnings {
		if !slices.Contains(p.warnings, w) {
			logger.Info("Node warning", "warning", w)
		}
	}
	p.warnings = warnings
}

// report tells of problems that are new in a Result: of those of a Service in one event, as every node of the cluster sends one.
func (p *problemLog) report(logger klog.Logger, before, after *desired.Result) {
	var old hamt.Map[proxy.ServiceName, []desired.Problem]
	if before != nil {
		old = before.Problems
	}
	for _, c := range hamt.Diff(old, after.Problems, slices.Equal[[]desired.Problem]) {
		var notes []string
		for _, problem := range c.New {
			if slices.Contains(c.Old, problem) {
				continue
			}
			logger.Info("Part of a Service cannot be proxied", "service", c.Key, "problem", problem.String())
			notes = append(notes, problem.String())
		}
		if len(notes) > 0 {
			p.event(c.Key, ReasonInvalid, strings.Join(notes, ". "))
		}
	}
}

// rejected tells of Services that the kernel refused and were not reported yet, and of those that it takes now.
func (p *problemLog) rejected(logger klog.Logger, f proxy.Family, list []proxy.Rejection) {
	now := map[rejection]string{}
	for _, r := range list {
		k := rejection{f, r.Name}
		now[k] = r.Err.Error()
		if p.refused[k] == now[k] {
			continue
		}
		logger.Error(r.Err, "A Service is left out because the kernel refuses it; it is tried again", "servicePort", r.Name, "after", rejectedRetry)
		p.event(r.Name.ServiceName, ReasonRejected, "left out of "+f.String()+" rules: "+now[k])
	}
	for k := range p.refused {
		if k.family != f {
			now[k] = p.refused[k]
		} else if _, still := now[k]; !still {
			logger.Info("A Service that was left out is programmed or gone", "servicePort", k.name)
		}
	}
	p.refused = now
}

func (p *problemLog) event(name proxy.ServiceName, reason, note string) {
	if p.events != nil {
		p.events.Service(name, reason, note)
	}
}
