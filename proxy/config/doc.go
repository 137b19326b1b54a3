// Package config turns kube-proxy's flags and its KubeProxyConfiguration file (kubeproxy.config.k8s.io/v1alpha1) into one
// validated, typed Config, and reports every problem it finds in one answer.
package config
