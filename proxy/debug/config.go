package debug

import (
	"fmt"

	"k8s.io/component-base/configz"
	"k8s.io/kube-proxy/config/v1alpha1"
)

// PublishConfig makes /configz show a configuration, in place of one that was published before. It is copied.
func PublishConfig(c *v1alpha1.KubeProxyConfiguration) error {
	c = c.DeepCopy()
	c.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind("KubeProxyConfiguration"))
	configz.Delete(v1alpha1.GroupName)
	entry, err := configz.New(v1alpha1.GroupName)
	if err != nil {
		return fmt.Errorf("publish the configuration: %w", err)
	}
	if err := entry.Set(c); err != nil {
		return fmt.Errorf("publish the configuration: %w", err)
	}
	return nil
}
