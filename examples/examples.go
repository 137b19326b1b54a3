// Package examples holds the manifests of a small cluster: what "turnout demo" serves, and a folder to start from for
// "turnout --manifests".
package examples

import "embed"

// Files are the manifests, in one flat folder.
//
//go:embed *.yaml
var Files embed.FS
