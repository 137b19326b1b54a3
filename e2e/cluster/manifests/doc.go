// Package manifests holds the tests of what is installed: the manifests against a real API server, kubeadm's own code, the
// controllers that make pods of them, and the commands by which users install and run them.
package manifests
