package config

import (
	"time"

	"github.com/spf13/pflag"
)

// ownFlags are the settings that kube-proxy does not have. They count with and without --config.
type ownFlags struct {
	manifests             string
	quietPeriod, maxDelay time.Duration
	protectTable          bool
}

// defaultOwn has the default of each own flag.
var defaultOwn = ownFlags{
	// A rollout changes many objects within milliseconds of each other; waiting for 10ms without a change catches most of
	// them in one sync and is not felt by anybody.
	quietPeriod: 10 * time.Millisecond,
	// Under a constant stream of changes there is no quiet moment. 100ms keeps programming latency low and is still ten
	// times longer than a sync takes.
	maxDelay: 100 * time.Millisecond,
	// Off, because rules must outlive the process: before Linux 6.9 the kernel removes an owned table with its owner.
	protectTable: false,
}

func addOwnFlags(fs *pflag.FlagSet, o *ownFlags) {
	fs.StringVar(&o.manifests, "manifests", o.manifests,
		"Folder of YAML files with Services, EndpointSlices and Nodes to use instead of an API server. Excludes --kubeconfig and --master. Not in kube-proxy.")
	fs.DurationVar(&o.quietPeriod, "sync-quiet-period", o.quietPeriod,
		"A sync starts when no change came for this long. Not in kube-proxy.")
	fs.DurationVar(&o.maxDelay, "sync-max-delay", o.maxDelay,
		"A sync starts at the latest this long after the first change, quiet or not. Not in kube-proxy.")
	fs.BoolVar(&o.protectTable, "protect-table", o.protectTable,
		"Mode nftables: let no other process change the tables while this one runs. Needs Linux 6.9. Not in kube-proxy.")
}

// validate checks the own flags against each other and against the sync period.
func (o *ownFlags) validate(period time.Duration, ps *Problems) {
	if o.quietPeriod < 0 {
		ps.add("--sync-quiet-period", "%v is negative; give 0 or a short time such as 10ms", o.quietPeriod)
	}
	if o.maxDelay < o.quietPeriod {
		ps.add("--sync-max-delay", "%v is less than --sync-quiet-period (%v); give at least that", o.maxDelay, o.quietPeriod)
	}
	if period > 0 && o.maxDelay > period {
		ps.add("--sync-max-delay", "%v is more than the sync period (%v); give at most that", o.maxDelay, period)
	}
}
