// Package sync is the loop that brings API objects to the kernel: it collects changes, waits for a quiet moment, builds the States,
// has the backends apply them, and then tells health servers, connection tracking, metrics and events.
//
// One goroutine owns all state (Loop.Run). Sources and watchers only feed trackers and wake it.
package sync
