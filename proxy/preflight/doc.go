// Package preflight finds out what a change to a mode meets on this node, without changing anything there.
//
// Gather collects facts and Judge, which is pure, makes findings of them.
package preflight
