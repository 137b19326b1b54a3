package iptables

// Remedy says what helps against errors of a kind, as Error does at the end of its text; "" if that depends.
func (k Kind) Remedy() string { return kinds[k].remedy }
