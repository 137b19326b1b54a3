// Package dir is a source.Source that reads Services, EndpointSlices, the own Node and ServiceCIDRs from a folder of YAML or JSON
// files and follows every change of it.
package dir
