// Package manifests holds what is needed to install and to watch Turnout in a cluster.
package manifests

import "embed"

// Files are the manifests, in folders as docs/install.md names them.
//
//go:embed base overlays monitoring
var Files embed.FS
