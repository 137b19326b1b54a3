package plane

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	authentication "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Identity is who a client certificate is for.
type Identity struct {
	User   string
	Groups []string
	// ValidFor is how long the certificate can be used; 0 is longer than any test.
	ValidFor time.Duration
}

// NodeProxy is the user that Kubernetes' own roles give the rights of a service proxy, system:node-proxier, and nothing more.
var NodeProxy = Identity{User: "system:kube-proxy"}

// Kubeconfig writes a kubeconfig file that reaches the API server through Front and whose user has a client certificate, in files
// beside it. It returns the file's path. Writing it again under the same name, of a user of any name, renews the certificate in place.
func (p *Plane) Kubeconfig(name string, id Identity) (path string, err error) {
	pair, err := p.authority.client(id)
	if err != nil {
		return "", err
	}
	if err := pair.write(p.dir, name); err != nil {
		return "", fmt.Errorf("write client certificate of %s: %w", id.User, err)
	}
	return p.writeKubeconfig(name, p.frontAddr, map[string]string{
		"client-certificate": p.Path(name + ".crt"), "client-key": p.Path(name + ".key"),
	})
}

// TokenKubeconfig writes a kubeconfig file whose user is a ServiceAccount, as in a pod: by a token in a file beside it, which this
// asks the API server for. Writing it again renews the token in place.
func (p *Plane) TokenKubeconfig(ctx context.Context, name, namespace, account string) (path string, err error) {
	request := &authentication.TokenRequest{Spec: authentication.TokenRequestSpec{ExpirationSeconds: new(int64(3600))}}
	answer, err := p.Admin.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("ask for a token of %s/%s: %w", namespace, account, err)
	}
	if err := replaceFile(p.Path(name+".token"), []byte(answer.Status.Token)); err != nil {
		return "", fmt.Errorf("write token: %w", err)
	}
	return p.writeKubeconfig(name, p.frontAddr, map[string]string{"tokenFile": p.Path(name + ".token")})
}

// writeKubeconfig writes a file with one context, as kubeadm names them.
func (p *Plane) writeKubeconfig(name string, server netip.AddrPort, user map[string]string) (string, error) {
	const only = "default"
	config := map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": only,
		"clusters": []any{map[string]any{"name": only, "cluster": map[string]string{
			"server": "https://" + server.String(), "certificate-authority": p.Path("ca.crt"),
		}}},
		"contexts": []any{map[string]any{"name": only, "context": map[string]string{"cluster": only, "user": only, "namespace": only}}},
		"users":    []any{map[string]any{"name": only, "user": user}},
	}
	text, err := yaml.Marshal(config)
	if err != nil {
		return "", fmt.Errorf("write kubeconfig %s: %w", name, err)
	}
	path := filepath.Join(p.dir, name+".kubeconfig")
	return path, replaceFile(path, text)
}
