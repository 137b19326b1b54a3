// Package node knows the machine that the proxy runs on: its name, addresses and kernel settings.
package node
