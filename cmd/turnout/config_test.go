package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const installed = "../../proxy/config/testdata/"

func TestConfigCheck(t *testing.T) {
	masquerade := "warning: iptables.masqueradeAll: true has no effect in mode nftables; set nftables.masqueradeAll: true\n"
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("kind: KubeProxyConfiguration\nmode: ipvs\nipvs: {syncPeriod: soon, tcpTimeout: -1s}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	rows := map[string]struct {
		args, stdout, stderr string // FILE stands for the file
		file                 string
		code                 int
	}{
		"warnings do not fail":   {args: "", file: installed + "kubespray-masquerade-all.yaml", stdout: masquerade + "FILE: mode nftables: 0 errors, 1 warning\n"},
		"but they do if strict":  {args: "--strict", file: installed + "kubespray-masquerade-all.yaml", code: 1, stdout: masquerade + "FILE: mode nftables: 0 errors, 1 warning\n"},
		"nothing to complain of": {args: "--strict", file: installed + "kubeadm-1.37.yaml", stdout: "FILE: mode nftables: 0 errors, 0 warnings\n"},
		"all errors at once": {file: bad, code: 1, stdout: `error: apiVersion: is missing; write apiVersion: kubeproxy.config.k8s.io/v1alpha1
error: ipvs.syncPeriod: "soon" does not fit; give a duration such as "30s" or "15m"
error: ipvs.tcpTimeout: -1s is negative; give 0 or a positive duration
warning: clusterCIDR is empty, so local pods cannot be recognised: traffic to ClusterIPs from outside the cluster is not masqueraded; set it, or another detectLocalMode
FILE: mode ipvs: 3 errors, 1 warning
`},
		"a file that is not there": {file: "/absent", code: 1, stderr: "turnout: open /absent: no such file or directory\n"},
		"all flags at once": {args: "--mode=nft -o xml", code: 1, stderr: `turnout: --mode: "nft" is not a mode; set nftables, iptables or ipvs
--output: "xml" is not a format; give text or json
-f is missing: give the configuration file, or - for the standard input
`},
		"an argument too many": {args: "file.yaml", code: 1, stderr: "turnout: \"file.yaml\" is not a flag; give the file with -f\n"},
	}
	for name, r := range rows {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"config", "check"}, strings.Fields(r.args)...)
			if r.file != "" {
				args = append(args, "-f", r.file)
			}
			got := execute(t.Context(), t, nil, args...)
			fill := strings.NewReplacer("FILE", r.file)
			if got.code != r.code || got.cfg != nil {
				t.Errorf("exit code %d, want %d", got.code, r.code)
			}
			if diff := cmp.Diff(fill.Replace(r.stdout), got.stdout); diff != "" {
				t.Errorf("stdout: -want +got\n%s", diff)
			}
			if diff := cmp.Diff(fill.Replace(r.stderr), got.stderr); diff != "" {
				t.Errorf("stderr: -want +got\n%s", diff)
			}
		})
	}
}

func TestConfigCheckJSON(t *testing.T) {
	file := installed + "kubespray-masquerade-all.yaml"
	for strict, code := range map[string]int{"--strict=false": 0, "--strict": 1} {
		got := execute(t.Context(), t, nil, "config", "check", "-f", file, "-o", "json", strict)
		var o checkOutput
		if err := json.Unmarshal([]byte(got.stdout), &o); err != nil || got.code != code {
			t.Fatalf("%s: exit code %d, %v in\n%s", strict, got.code, err, got.stdout)
		}
		want := checkOutput{File: file, Mode: "nftables", ModeInFile: "nftables", OK: code == 0, Errors: []checkFinding{}, Notes: []checkFinding{}, Warnings: []checkFinding{{
			Field: "iptables.masqueradeAll", Value: "true", Instead: "nftables.masqueradeAll",
			Message: "iptables.masqueradeAll: true has no effect in mode nftables; set nftables.masqueradeAll: true"}}}
		if diff := cmp.Diff(want, o); diff != "" {
			t.Errorf("%s: -want +got\n%s", strict, diff)
		}
	}
}

func TestConfigConvert(t *testing.T) {
	in, out := filepath.Join(t.TempDir(), "in.yaml"), filepath.Join(t.TempDir(), "out.yaml")
	text := `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: ipvs
iptables: {masqueradeAll: true}
ipvs: {syncPeriod: 20s, scheduler: wrr, strictARP: true}
nodePortAddresses: [primary]
`
	if err := os.WriteFile(in, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	want := `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
nftables:
  masqueradeAll: true
  syncPeriod: 20s
nodePortAddresses:
- primary
`
	stderr := in + `: from mode ipvs to mode nftables
changed: iptables.masqueradeAll: true is now nftables.masqueradeAll
changed: ipvs.syncPeriod: 20s is now nftables.syncPeriod
not translated: ipvs.scheduler: wrr is left out: mode nftables has nothing like it: endpoints are chosen at random
not translated: ipvs.strictARP: true is left out: mode nftables has nothing like it: no interface is given the addresses of Services, so nothing answers ARP for them
`
	r := execute(t.Context(), t, nil, "config", "convert", "-f", in, "--to", "nftables")
	if diff := cmp.Diff(result{stdout: want, stderr: stderr}, r, cmp.AllowUnexported(result{})); diff != "" {
		t.Errorf("to stdout: -want +got\n%s", diff)
	}
	r = execute(t.Context(), t, nil, "config", "convert", "-f", in, "--to=nftables", "-o", out)
	written, err := os.ReadFile(out)
	if err != nil || r.code != 0 || r.stdout != "" || string(written) != want {
		t.Errorf("to a file: %v, %+v, written:\n%s", err, r, written)
	}
	if r := execute(t.Context(), t, nil, "config", "check", "-f", out, "--strict"); r.code != 1 || !strings.HasPrefix(r.stdout, "warning: clusterCIDR is empty") {
		t.Errorf("checked: %+v", r)
	}
	for args, want := range map[string]string{
		"--to nftables --from iptable -f " + in:     `turnout: --from: "iptable" is not a mode; did you mean "iptables"?; set nftables, iptables or ipvs` + "\n",
		"-f " + in:                                  `turnout: --to: "" is not a mode; set nftables, iptables or ipvs` + "\n",
		"--to nftables -o /nowhere/at/all -f " + in: "turnout: write the converted configuration: open /nowhere/at/all: no such file or directory\n",
	} {
		r := execute(t.Context(), t, nil, append([]string{"config", "convert"}, strings.Fields(args)...)...)
		if r.code != 1 || !strings.HasSuffix(r.stderr, want) {
			t.Errorf("%s: %+v", args, r)
		}
	}
}

func TestConfigOfStandardInput(t *testing.T) {
	root := newRootCommand(nil)
	var out strings.Builder
	root.SetArgs([]string{"config", "convert", "-f", "-", "--to", "iptables"})
	root.SetIn(strings.NewReader("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\nnodePortAddresses: [all]\n"))
	root.SetOut(&out)
	root.SetErr(&out)
	if err := root.ExecuteContext(t.Context()); err != nil || !strings.Contains(out.String(), "mode: iptables\n") {
		t.Errorf("%v, output\n%s", err, out.String())
	}
}

func TestConfigWithoutCommand(t *testing.T) {
	if r := execute(t.Context(), t, nil, "config"); r.code != 0 || !strings.Contains(r.stdout, "convert") {
		t.Errorf("config: %+v", r)
	}
	if r := execute(t.Context(), t, nil, "config", "chek"); r.code != 1 || r.stderr != "turnout: config chek: there is no such command; see turnout config --help\n" {
		t.Errorf("config chek: %+v", r)
	}
}
