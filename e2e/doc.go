// Package e2e holds the tests of the built binary: it runs on a node of the lab and is judged by what becomes of real packets.
package e2e
