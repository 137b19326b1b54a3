// Package nfacct makes, reads and deletes the kernel's named packet counters, which rules of iptables count with (-m nfacct), over netlink.
package nfacct
