package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Mode is how the kernel is programmed, in the words of kube-proxy's field mode.
type Mode string

// The modes of kube-proxy on Linux. An unset mode means NFTables.
const (
	NFTables Mode = "nftables"
	IPTables Mode = "iptables"
	IPVS     Mode = "ipvs"
	// Auto asks for the first of Modes that the node can run. It is resolved by In.
	Auto Mode = "auto"
)

// modeWindows is the value of the field mode on Windows.
const modeWindows Mode = "kernelspace"

// Modes are the modes that the kernel can be programmed in, in the order in which Auto tries them.
var Modes = []Mode{NFTables, IPTables, IPVS}

// askable are the values of the field mode.
var askable = append(slices.Clone(Modes), Auto)

// setting is something that each mode has a field of its own for, or that only some modes have.
type setting struct {
	// fields has the path of the field in each mode that has the setting. Modes may share a field.
	fields map[Mode]string
	// without says what modes without the setting do, "" if all have it.
	without string
}

// settings are all that depends on the mode. What is not listed here means the same in every mode.
var settings = []setting{
	// Mode ipvs takes its masquerading from the section of iptables, but its periods from its own.
	{fields: map[Mode]string{IPTables: "iptables.masqueradeAll", IPVS: "iptables.masqueradeAll", NFTables: "nftables.masqueradeAll"}},
	{fields: map[Mode]string{IPTables: "iptables.masqueradeBit", IPVS: "iptables.masqueradeBit", NFTables: "nftables.masqueradeBit"}},
	{fields: map[Mode]string{IPTables: "iptables.syncPeriod", IPVS: "ipvs.syncPeriod", NFTables: "nftables.syncPeriod"}},
	{fields: map[Mode]string{IPTables: "iptables.minSyncPeriod", IPVS: "ipvs.minSyncPeriod", NFTables: "nftables.minSyncPeriod"}},
	{map[Mode]string{IPTables: "iptables.localhostNodePorts"}, "NodePorts are not served on loopback addresses"},
	{map[Mode]string{IPVS: "ipvs.scheduler"}, "endpoints are chosen at random"},
	{map[Mode]string{IPVS: "ipvs.excludeCIDRs"}, "there are no virtual servers that could be left alone"},
	{map[Mode]string{IPVS: "ipvs.strictARP"}, "no interface is given the addresses of Services, so nothing answers ARP for them"},
	{map[Mode]string{IPVS: "ipvs.tcpTimeout"}, "conntrack.tcpEstablishedTimeout holds for idle connections"},
	{map[Mode]string{IPVS: "ipvs.tcpFinTimeout"}, "the kernel's timeout of connection tracking holds"},
	{map[Mode]string{IPVS: "ipvs.udpTimeout"}, "conntrack.udpTimeout and conntrack.udpStreamTimeout hold"},
}

// nowhere says of fields and of whole sections why no mode uses them.
var nowhere = map[string]string{
	"portRange":           "it belonged to a mode that kube-proxy lost in 1.26",
	"winkernel":           "it is for Windows only",
	"windowsRunAsService": "it is for Windows only",
}

// settingOf returns the setting that a field belongs to, nil if the field does not depend on the mode.
func settingOf(field string) *setting {
	for i := range settings {
		for _, f := range settings[i].fields {
			if f == field {
				return &settings[i]
			}
		}
	}
	return nil
}

// unusedBecause says why a field has no effect in any mode, "" if it has.
func unusedBecause(field string) string {
	section, _, _ := strings.Cut(field, ".")
	return nowhere[section]
}

// usedIn tells whether a field has an effect in a mode. In mode Auto it may have.
func usedIn(field string, m Mode) bool {
	if unusedBecause(field) != "" {
		return false
	}
	s := settingOf(field)
	return s == nil || m == Auto || s.fields[m] == field
}

// modesOf lists the modes that use a field, as text.
func modesOf(field string) string {
	var names []string
	for _, m := range Modes {
		if usedIn(field, m) {
			names = append(names, string(m))
		}
	}
	return strings.Join(names, " and ")
}

// ParseMode returns the mode of a name. The error names those there are.
func ParseMode(name string) (Mode, error) {
	if m := Mode(name); slices.Contains(Modes, m) {
		return m, nil
	}
	return "", errors.New(notAMode(name, Modes))
}

// ParseAsked returns the value of the field mode that a name stands for: a mode, or Auto. The error names those there are.
func ParseAsked(name string) (Mode, error) {
	if m := Mode(name); slices.Contains(askable, m) {
		return m, nil
	}
	return "", errors.New(notAMode(name, askable))
}

// notAMode says that a mode does not exist, and which do.
func notAMode(name string, modes []Mode) string {
	names := modeNames(modes)
	if Mode(name) == modeWindows {
		return fmt.Sprintf("%q is for Windows only; set %s", name, oneOf(modeNames(modes)))
	}
	return fmt.Sprintf("%q is not a mode%s; set %s", name, didYouMean(name, names), oneOf(modeNames(modes)))
}

func modeNames(modes []Mode) []string {
	names := make([]string, len(modes))
	for i, m := range modes {
		names[i] = string(m)
	}
	return names
}

// oneOf writes a choice: "a", "a or b", "a, b or c".
func oneOf(names []string) string {
	last := len(names) - 1
	if last < 1 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:last], ", ") + " or " + names[last]
}
