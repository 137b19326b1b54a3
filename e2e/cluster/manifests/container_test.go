package manifests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	authentication "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"turnout/e2e/cluster/plane"
	"turnout/proxy/proxytest/lab"
)

// machine runs containers of the proxy on a node of the lab as its kubelet would: the same command and environment, the files that it
// would mount, and no capability but those that the container is given.
type machine struct {
	t     *testing.T
	plane *plane.Plane
	host  *lab.Host
}

// command is a container of a pod, not yet started.
func (m *machine) command(pod *v1.Pod, c v1.Container) (*exec.Cmd, error) {
	binary, err := filepath.Abs(*binaryFlag)
	if err != nil {
		return nil, err
	}
	mounts, err := m.mounts(pod, c)
	if err != nil {
		return nil, err
	}
	script := "mount -t tmpfs none /run && mount -t tmpfs none /var/lib"
	for to, from := range mounts {
		script += fmt.Sprintf(" && mkdir -p %[1]s && mount --bind %[2]s %[1]s", to, from)
	}
	cmd := exec.Command("unshare", "--mount", "sh", "-c", script+" && "+privileges(c)+` "$@"`, "sh", binary)
	if cmd.Env, err = m.env(pod, c); err != nil {
		return nil, err
	}
	for _, arg := range c.Command[1:] {
		cmd.Args = append(cmd.Args, strings.ReplaceAll(arg, "$(NODE_NAME)", m.host.Name))
	}
	return cmd, nil
}

// privileges is what runs a command with those that a container has. Without all of them /proc/sys is read-only.
func privileges(c v1.Container) string {
	if is := c.SecurityContext.Privileged; is != nil && *is {
		return "exec"
	}
	set := "-all"
	for _, name := range c.SecurityContext.Capabilities.Add {
		set += ",+" + strings.ToLower(string(name))
	}
	return "mount --bind -o ro /proc/sys /proc/sys && exec setpriv --no-new-privs --bounding-set=" + set
}

// mounts writes what the kubelet mounts, and returns folders by the path where they belong: ConfigMaps, and the ServiceAccount's token and
// certificate.
func (m *machine) mounts(pod *v1.Pod, c v1.Container) (map[string]string, error) {
	request := &authentication.TokenRequest{Spec: authentication.TokenRequestSpec{ExpirationSeconds: new(int64(3600))}}
	answer, err := m.plane.Admin.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(m.t.Context(), pod.Spec.ServiceAccountName, request, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(m.plane.Path("ca.crt"))
	if err != nil {
		return nil, err
	}
	account, err := files(m.t, map[string]string{"token": answer.Status.Token, "ca.crt": string(authority)})
	out := map[string]string{"/run/secrets/kubernetes.io/serviceaccount": account}
	for _, mount := range c.VolumeMounts {
		for _, v := range pod.Spec.Volumes {
			if v.Name != mount.Name || v.HostPath != nil || err != nil {
				continue
			}
			var contents map[string]string
			if contents, err = m.volume(pod, v); err == nil {
				out[mount.MountPath], err = files(m.t, contents)
			}
		}
	}
	return out, err
}

// volume returns the files of a volume that is made of ConfigMaps.
func (m *machine) volume(pod *v1.Pod, v v1.Volume) (map[string]string, error) {
	var sources []v1.ConfigMapProjection
	if v.ConfigMap != nil {
		sources = append(sources, v1.ConfigMapProjection{LocalObjectReference: v.ConfigMap.LocalObjectReference, Items: v.ConfigMap.Items})
	}
	if v.Projected != nil {
		for _, s := range v.Projected.Sources {
			sources = append(sources, *s.ConfigMap)
		}
	}
	contents := map[string]string{}
	for _, s := range sources {
		data, err := m.configMap(pod, s.Name)
		if err != nil {
			return nil, err
		}
		for key, text := range data {
			if len(s.Items) == 0 {
				contents[key] = text
			}
		}
		for _, item := range s.Items {
			contents[item.Path] = data[item.Key]
		}
	}
	return contents, nil
}

// unlimited leaves to the machine what a network namespace cannot have for itself.
const unlimited = "conntrack: {maxPerCore: 0, min: 0}\n"

func (m *machine) configMap(pod *v1.Pod, name string) (map[string]string, error) {
	o, err := m.plane.Admin.CoreV1().ConfigMaps(pod.Namespace).Get(m.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return o.Data, nil
}

// env is the environment of a container.
func (m *machine) env(pod *v1.Pod, c v1.Container) ([]string, error) {
	out := []string{"PATH=" + os.Getenv("PATH")}
	for _, e := range c.Env {
		if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
			data, err := m.configMap(pod, e.ValueFrom.ConfigMapKeyRef.Name)
			if err != nil {
				return nil, err
			}
			out = append(out, e.Name+"="+data[e.ValueFrom.ConfigMapKeyRef.Key])
		}
	}
	return out, nil
}

// files writes files into a folder of their own.
func files(t *testing.T, contents map[string]string) (string, error) {
	dir := t.TempDir()
	for name, text := range contents {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	return dir, nil
}
