// Package desired decides every traffic policy of Kubernetes: it turns records of Services and endpoints into the State of each
// family.
package desired
