// Package expect says what must become of connections in a lab, and finds out.
package expect
