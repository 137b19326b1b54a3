package iptables

import "turnout/proxy"

// Installed looks for the programs of either variant by their names, and runs none: even to be asked for their version, those of variant nft have the kernel
// load a module. The error is an *Error of kind Missing.
func Installed(o Options) error {
	base := "iptables"
	if o.Family == proxy.IPv6 {
		base = "ip6tables"
	}
	var last error
	for _, name := range []string{base + "-" + string(NFT), base + "-" + string(Legacy), base} {
		last = nil
		for _, end := range []string{"", "-restore", "-save"} {
			if _, err := o.find(name + end); err != nil {
				last = err
				break
			}
		}
		if last == nil {
			return nil
		}
	}
	return &Error{Program: base, Kind: Missing, Err: last}
}
