// Package manifests holds the tests of what is installed: the manifests against a real API server, kubeadm's own code, and the
// controllers that make pods of them.
package manifests
