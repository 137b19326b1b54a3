package metrics

import "turnout/proxy"

// TableUnreadable is 1 for a table that the programs of iptables cannot read, because of rules that another program wrote natively, and 0 for others. It exists in mode
// iptables only; ip_family, table.
const TableUnreadable = "turnout_table_unreadable"

const labelTable = "table"

func (m *Metrics) defineUnreadable(d *definer) {
	m.unreadable = d.gauge(TableUnreadable, "1 if rules of another program keep the programs of iptables from reading the table, else 0.", labelFamily, labelTable)
}

// TablesRead notes the rules that keep the programs of iptables from reading a table, by table; nil tells that nobody reads them any more.
func (m *Metrics) TablesRead(f proxy.Family, inTheWay map[string][]string) {
	if inTheWay == nil && m.unreadable.IsCreated() { // not if it is switched off (--disabled-metrics)
		m.unreadable.DeletePartialMatch(map[string]string{labelFamily: f.String()})
	}
	for table, rules := range inTheWay {
		m.unreadable.WithLabelValues(f.String(), table).Set(float64(min(1, len(rules))))
	}
}
