package plane

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	proxyconfig "k8s.io/kube-proxy/config/v1alpha1"
	"sigs.k8s.io/yaml"
)

// ProxyConfig writes a KubeProxyConfiguration, in the form that kubeadm gives it, into the plane's folder and returns its path. The mode
// is nftables and the conntrack table is left alone, as its size cannot be set in a network namespace; edit, if it is not nil, may
// change anything.
func (p *Plane) ProxyConfig(name, kubeconfig string, edit func(*proxyconfig.KubeProxyConfiguration)) (path string, err error) {
	c := &proxyconfig.KubeProxyConfiguration{
		TypeMeta:    metav1.TypeMeta{APIVersion: proxyconfig.SchemeGroupVersion.String(), Kind: "KubeProxyConfiguration"},
		BindAddress: "0.0.0.0", ClusterCIDR: joined(p.lab.ClusterCIDRs), Mode: "nftables",
	}
	c.ClientConnection.Kubeconfig = kubeconfig
	c.Conntrack.MaxPerCore, c.Conntrack.Min = new(int32(0)), new(int32(0))
	if edit != nil {
		edit(c)
	}
	text, err := yaml.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("write configuration %s: %w", name, err)
	}
	return p.Path(name), replaceFile(p.Path(name), text)
}
