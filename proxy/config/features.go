package config

import (
	"maps"
	"slices"
	"strings"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/component-base/featuregate"
	logsapi "k8s.io/component-base/logs/api/v1"
	metricsfeatures "k8s.io/component-base/metrics/features"
	baseversion "k8s.io/component-base/version"
	zpagesfeatures "k8s.io/component-base/zpages/features"
)

// The feature gates of kube-proxy, besides those of logging, metrics and the z-pages.
const (
	gateNFTablesProxyMode             featuregate.Feature = "NFTablesProxyMode"
	gateNFTablesNetlink               featuregate.Feature = "NFTablesNetlink"
	gateLocalhostNodePorts            featuregate.Feature = "KubeProxyNFTablesLocalhostNodePorts"
	gateIPVS                          featuregate.Feature = "KubeProxyIPVS"
	gateServiceExternalIPs            featuregate.Feature = "AllowServiceExternalIPs"
	gatePreferSameTrafficDistribution featuregate.Feature = "PreferSameTrafficDistribution"
	gateMultiCIDRServiceAllocator     featuregate.Feature = "MultiCIDRServiceAllocator"
)

// gateSpecs has each gate's default and stage in the Kubernetes version that Turnout stands in for.
var gateSpecs = map[featuregate.Feature]featuregate.FeatureSpec{
	gateNFTablesProxyMode:             {Default: true, LockToDefault: true, PreRelease: featuregate.GA},
	gateNFTablesNetlink:               {Default: true, PreRelease: featuregate.Beta},
	gateLocalhostNodePorts:            {Default: false, PreRelease: featuregate.Alpha},
	gateIPVS:                          {Default: true, PreRelease: featuregate.Deprecated},
	gateServiceExternalIPs:            {Default: true, PreRelease: featuregate.Deprecated},
	gatePreferSameTrafficDistribution: {Default: true, LockToDefault: true, PreRelease: featuregate.GA},
	gateMultiCIDRServiceAllocator:     {Default: true, LockToDefault: true, PreRelease: featuregate.GA},
}

// noEffect says, for each gate that changes nothing here, at which value that is worth a warning and why.
var noEffect = []struct {
	gate  featuregate.Feature
	value bool
	why   string
}{
	{gateLocalhostNodePorts, true, "NodePorts are not served on loopback addresses"},
	{gateNFTablesNetlink, false, "netlink is always used"},
	{gateIPVS, false, "mode ipvs can be had whatever it says"},
}

// kubernetesVersion is the minor version of Kubernetes whose kube-proxy Turnout stands in for.
func kubernetesVersion() *version.Version {
	return version.MustParse(baseversion.DefaultKubeBinaryVersion)
}

// newGates returns all known gates at their defaults.
func newGates() (featuregate.MutableVersionedFeatureGate, error) {
	gates := featuregate.NewVersionedFeatureGate(kubernetesVersion())
	adders := []func(featuregate.MutableVersionedFeatureGate) error{
		logsapi.AddFeatureGates, metricsfeatures.AddFeatureGates, zpagesfeatures.AddFeatureGates,
		func(g featuregate.MutableVersionedFeatureGate) error { return g.Add(gateSpecs) },
	}
	for _, add := range adders {
		if err := add(gates); err != nil {
			return nil, err
		}
	}
	return gates, nil
}

// gateUsage lists the gates that can be changed, for --help.
func gateUsage() string {
	gates, err := newGates()
	if err != nil {
		return ""
	}
	return strings.Join(gates.KnownFeatures(), "\n")
}

// setGates returns the gates with the given values, and warnings about values that change nothing. Each gate that is
// locked is a problem. One that is not known is only warned of: kube-proxy knows the gates of every component, and installers give all
// of them the same list.
func setGates(values map[string]bool, where string, ps *Problems) (featuregate.MutableVersionedFeatureGate, Warnings) {
	gates, err := newGates()
	if err != nil { // two of the libraries name the same gate differently: no input leads here
		ps.add(where, "set up the known gates: %v", err)
		return nil, nil
	}
	known := gates.GetAll()
	var ws Warnings
	good := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value := values[name]
		spec, ok := known[featuregate.Feature(name)]
		switch {
		case !ok:
			ws.add(where, "feature gate %s is none of the proxy's and is ignored%s", name, didYouMean(name, gateNames(known)))
		case spec.LockToDefault && spec.Default != value:
			ps.add(where, "%s=%t: the gate is locked to %t; remove it", name, value, spec.Default)
		default:
			good[name] = value
		}
	}
	// Warnings go to Config.Warnings, as the logger is not set up yet.
	if err := gates.(featuregate.MutableFeatureGateWithLogger).SetFromMapWithLogger(logr.Discard(), good); err != nil {
		ps.add(where, "%v", err)
	}
	for _, n := range noEffect {
		if v, ok := good[string(n.gate)]; ok && v == n.value {
			ws.add(where, "feature gate %s has no effect: %s", n.gate, n.why)
		}
	}
	return gates, ws
}

func gateNames(known map[featuregate.Feature]featuregate.FeatureSpec) []string {
	var names []string
	for name := range known {
		names = append(names, string(name))
	}
	slices.Sort(names)
	return names
}

// features reads the gates that change what the proxy does.
func features(gates featuregate.FeatureGate) Features {
	return Features{
		ExternalIPs: gates.Enabled(gateServiceExternalIPs),
		Flagz:       gates.Enabled(zpagesfeatures.ComponentFlagz),
		Statusz:     gates.Enabled(zpagesfeatures.ComponentStatusz),
	}
}
