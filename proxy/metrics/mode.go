package metrics

// ProxyMode is 1 for the mode that the rules are written in, with the reason why it is that one; mode, reason.
const ProxyMode = "turnout_proxy_mode"

const labelMode = "mode"

// ModeReason is why the proxy is in its mode; the closed list keeps the number of series small.
type ModeReason string

// The reasons for a mode.
const (
	ModeByDefault       ModeReason = "default"
	ModeByConfiguration ModeReason = "configuration"
	ModeByLabel         ModeReason = "node_label"
	// ModeByAuto is for mode auto that takes its first choice, and ModeByFallback for one that takes another, since the node cannot run the first.
	ModeByAuto     ModeReason = "auto"
	ModeByFallback ModeReason = "auto_fallback"
)

func (m *Metrics) defineMode(d *definer) {
	m.mode = d.gauge(ProxyMode, "1 for the mode that the rules are written in.", labelMode, labelReason)
}

// ModeIs notes the mode in use, in place of the one before.
func (m *Metrics) ModeIs(mode string, why ModeReason) {
	if m.mode.IsCreated() { // not if it is switched off (--disabled-metrics)
		m.mode.Reset()
	}
	m.mode.WithLabelValues(mode, string(why)).Set(1)
}
