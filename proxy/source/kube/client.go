package kube

import (
	"cmp"
	"errors"
	"fmt"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// ClientOptions say how to reach the API server.
type ClientOptions struct {
	Kubeconfig string // path; empty with an empty Master means the pod's own credentials
	Master     string // URL that replaces the kubeconfig's
	// AcceptContentTypes and ContentType are HTTP content types; empty means protobuf with JSON as a fall-back.
	AcceptContentTypes, ContentType string
	QPS                             float32 // requests a second on average; 0 means client-go's default, negative no limit
	Burst                           int     // requests at once
}

const (
	protobufType = "application/vnd.kubernetes.protobuf"
	jsonType     = "application/json"
)

// NewClient returns a client. It does not connect; the error is about the options, the kubeconfig and the credentials in it.
func NewClient(o ClientOptions) (kubernetes.Interface, error) {
	cfg, err := restConfig(o)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client for %s: %w", cfg.Host, err)
	}
	return client, nil
}

func restConfig(o ClientOptions) (*rest.Config, error) {
	cfg, err := baseConfig(o)
	if err != nil {
		return nil, err
	}
	cfg.ContentType = cmp.Or(o.ContentType, protobufType)
	cfg.AcceptContentTypes = o.AcceptContentTypes
	if cfg.AcceptContentTypes == "" && cfg.ContentType == protobufType {
		cfg.AcceptContentTypes = protobufType + "," + jsonType
	}
	cfg.QPS, cfg.Burst = o.QPS, o.Burst
	return cfg, nil
}

func baseConfig(o ClientOptions) (*rest.Config, error) {
	if o.Kubeconfig == "" && o.Master == "" {
		cfg, err := rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			return nil, fmt.Errorf("no API server is named and this is not a pod; set --kubeconfig (clientConnection.kubeconfig) or --master: %w", err)
		}
		if err != nil {
			return nil, fmt.Errorf("credentials of the pod's service account: %w", err)
		}
		return cfg, nil
	}
	overrides := &clientcmd.ConfigOverrides{ClusterInfo: api.Cluster{Server: o.Master}}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: o.Kubeconfig}
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides).ClientConfig()
	switch {
	case err != nil && o.Kubeconfig == "":
		return nil, fmt.Errorf("--master=%s: %w", o.Master, err)
	case err != nil:
		return nil, fmt.Errorf("--kubeconfig=%s (clientConnection.kubeconfig): %w", o.Kubeconfig, err)
	}
	return cfg, nil
}
