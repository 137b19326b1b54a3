// Package benchmodes measures, in its benchmark, what the same State costs in each mode, beside each other.
package benchmodes
