// Package nftables makes a node's kernel follow a proxy.State: it keeps one table per family, over netlink and with no binary
// to call.
//
// No Service has a chain, a rule or a set of its own. A map leads from a frontend's address to its class and the number of
// its Service; a small verdict map leads from the class to a chain that is shared by all frontends treated alike; and one map
// holds the endpoints of all Services by number and slot. A change is therefore a handful of elements, whatever the size of
// the cluster. README.md beside this file draws the packet's way and says why the rules stand where they stand.
//
// The package is built as a straight line: service.go, class.go and chains.go turn a State into elements, chains and rules;
// table.go and program.go compare them with what was applied; encode.go and socket.go send the difference as one transaction.
package nftables
