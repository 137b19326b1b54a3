// Package debug is the HTTP handler of the metrics and debug server, by default on 127.0.0.1:10249.
package debug
