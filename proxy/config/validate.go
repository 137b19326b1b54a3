package config

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-base/featuregate"
	logsapi "k8s.io/component-base/logs/api/v1"
)

// validator checks one configuration whose defaults were filled in; where names what to change for a field.
type validator struct {
	conf     *external
	mode     Mode
	where    func(field string) string
	problems *Problems
	latent   Problems // of fields that the mode does not use: they would be problems in another
}

func (v *validator) add(field, format string, args ...any) {
	if usedIn(field, v.mode) {
		v.problems.add(v.where(field), format, args...)
	} else {
		v.latent.add(field, format, args...)
	}
}

// numbersAndIntervals checks the limits of the tables in defaults.go.
func (v *validator) numbersAndIntervals() {
	for _, n := range numbers {
		value := **n.at(v.conf)
		if value < n.min || value > n.max {
			v.add(n.field, "%d is outside %d to %d; give a number within", value, n.min, n.max)
		}
	}
	for _, i := range intervals {
		d := i.at(v.conf).Duration
		switch {
		case i.positive && d <= 0:
			v.add(i.field, "%v is not positive; give a duration such as %s", d, i.def)
		case d < 0:
			v.add(i.field, "%v is negative; give 0 or a positive duration", d)
		}
	}
	for _, t := range timeouts {
		if d := (*t.at(v.conf)).Duration; d < 0 {
			v.add(t.field, "%v is negative; give 0, which leaves the kernel's value, or a positive duration", d)
		}
	}
}

// minSyncPeriod checks that the least time between syncs does not exceed the sync period.
func (v *validator) minSyncPeriod() {
	periods := []struct {
		section      string
		least, usual metav1.Duration
	}{
		{"iptables", v.conf.IPTables.MinSyncPeriod, v.conf.IPTables.SyncPeriod},
		{"ipvs", v.conf.IPVS.MinSyncPeriod, v.conf.IPVS.SyncPeriod},
		{"nftables", v.conf.NFTables.MinSyncPeriod, v.conf.NFTables.SyncPeriod},
	}
	for _, p := range periods {
		if p.usual.Duration > 0 && p.least.Duration > p.usual.Duration {
			v.add(p.section+".minSyncPeriod", "%v is more than %s (%v); give at most that",
				p.least.Duration, v.where(p.section+".syncPeriod"), p.usual.Duration)
		}
	}
}

func (v *validator) modeExists() {
	if !slices.Contains(askable, v.mode) {
		v.add("mode", "%s", notAMode(string(v.mode), askable))
	}
}

// detectLocal checks how local pods are recognised.
func (v *validator) detectLocal() {
	modes := []string{string(DetectClusterCIDR), string(DetectNodeCIDR), string(DetectBridgeInterface), string(DetectInterfaceNamePrefix)}
	m := string(v.conf.DetectLocalMode)
	switch {
	case !slices.Contains(modes, m):
		v.add("detectLocalMode", "%q is not a mode%s; set one of %s", m, didYouMean(m, modes), strings.Join(modes, ", "))
	case LocalMode(m) == DetectBridgeInterface && v.conf.DetectLocal.BridgeInterface == "":
		v.add("detectLocal.bridgeInterface", "is empty; name the bridge, as %s is %s", v.where("detectLocalMode"), m)
	case LocalMode(m) == DetectBridgeInterface:
		v.interfaceName("detectLocal.bridgeInterface", v.conf.DetectLocal.BridgeInterface)
	case LocalMode(m) == DetectInterfaceNamePrefix && v.conf.DetectLocal.InterfaceNamePrefix == "":
		v.add("detectLocal.interfaceNamePrefix", "is empty; give the prefix, as %s is %s", v.where("detectLocalMode"), m)
	case LocalMode(m) == DetectInterfaceNamePrefix:
		v.interfaceName("detectLocal.interfaceNamePrefix", v.conf.DetectLocal.InterfaceNamePrefix)
	}
}

// interfaceName checks what is, or begins, the name of a network interface: no rule can be made of what the kernel takes for none (dev_valid_name).
func (v *validator) interfaceName(field, name string) {
	const longest = 15
	if len(name) > longest || strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r == ':' || r <= ' ' || r == 0x7f }) {
		v.add(field, "%q is no name of an interface; give at most %d characters without blanks, / and :", name, longest)
	}
}

// client checks the connection to the API server.
func (v *validator) client() {
	if b := v.conf.ClientConnection.Burst; b < 0 {
		v.add("clientConnection.burst", "%d is negative; give 0 or more", b)
	}
}

// hiddenMetrics accepts the previous minor version only, as hidden metrics are removed one release later.
func (v *validator) hiddenMetrics() {
	current := kubernetesVersion()
	previous := fmt.Sprintf("%d.%d", current.Major(), current.Minor()-1)
	if s := v.conf.ShowHiddenMetricsForVersion; s != "" && s != previous {
		v.add("showHiddenMetricsForVersion", "%q is not the previous minor version; give %s or nothing", s, previous)
	}
}

// hostname returns the node's name as the API server spells it.
func (v *validator) hostname() string {
	name := strings.TrimSpace(v.conf.HostnameOverride)
	if name == "" && v.conf.HostnameOverride != "" {
		v.add("hostnameOverride", "%q is blank; give the Node's name, or leave it out", v.conf.HostnameOverride)
	}
	return strings.ToLower(name)
}

// logging asks the logging library, and brings its findings into our form.
func (v *validator) logging(gates featuregate.FeatureGate) {
	for _, e := range logsapi.Validate(&v.conf.Logging, gates, field.NewPath("logging")) {
		path, _, _ := strings.Cut(e.Field, "[")
		remedy := "give another value"
		switch path {
		case "logging.format":
			remedy = "give text or json"
		case "logging.flushFrequency":
			remedy = "give a duration such as 5s"
		case "logging.vmodule":
			remedy = "give file=N with logging format text, or leave it out"
		}
		if e.Type == field.ErrorTypeForbidden && strings.Contains(e.Detail, string(logsapi.LoggingAlphaOptions)) {
			remedy = "turn the feature gate on, or leave it out"
		}
		v.add(path, "%s; %s", lowerFirst(e.ErrorBody()), remedy)
	}
}

func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}
