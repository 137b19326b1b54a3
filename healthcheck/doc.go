// Package healthcheck answers over HTTP whether this node's proxy works and which Services have endpoints here: the proxy's
// own health server, and one server for each Service with a health-check node port.
package healthcheck
