package kube

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const kubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: default, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: default, user: {token: secret}}]
contexts: [{name: default, context: {cluster: default, user: default}}]
current-context: default
`

func TestRestConfig(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	t.Setenv("KUBECONFIG", "/nonexistent") // not for us
	file := filepath.Join(t.TempDir(), "kubeconfig")
	broken := file + ".broken"
	for path, text := range map[string]string{file: kubeconfig, broken: "clusters: 3"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	type config struct {
		Host, Token, Accept, Content string
		QPS                          float32
		Burst                        int
	}
	both := protobufType + "," + jsonType
	tests := map[string]struct {
		in   ClientOptions
		want config
		err  string
	}{
		"kubeconfig": {in: ClientOptions{Kubeconfig: file, QPS: 5, Burst: 10}, want: config{"https://127.0.0.1:1", "secret", both, protobufType, 5, 10}},
		"kubeconfig and master": {
			in:   ClientOptions{Kubeconfig: file, Master: "https://127.0.0.1:2", ContentType: jsonType},
			want: config{"https://127.0.0.1:2", "secret", "", jsonType, 0, 0},
		},
		"master": {
			in:   ClientOptions{Master: "https://127.0.0.1:3", AcceptContentTypes: jsonType},
			want: config{"https://127.0.0.1:3", "", jsonType, protobufType, 0, 0},
		},
		"missing file": {in: ClientOptions{Kubeconfig: "/nonexistent/file"},
			err: "--kubeconfig=/nonexistent/file (clientConnection.kubeconfig): stat /nonexistent/file: no such file or directory"},
		"broken file": {in: ClientOptions{Kubeconfig: broken}, err: "--kubeconfig=" + broken + " (clientConnection.kubeconfig): "},
		"bad master":  {in: ClientOptions{Master: "http://a:b"}, err: "a:b"},
		"nothing, and no pod": {
			err: "no API server is named and this is not a pod; set --kubeconfig (clientConnection.kubeconfig) or --master: ",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, clientErr := NewClient(tt.in)
			if tt.err != "" {
				if clientErr == nil || !strings.Contains(clientErr.Error(), tt.err) {
					t.Errorf("got error %v, want %q", clientErr, tt.err)
				}
				return
			}
			cfg, err := restConfig(tt.in)
			if err != nil || clientErr != nil {
				t.Fatal(err, clientErr)
			}
			got := config{cfg.Host, cfg.BearerToken, cfg.AcceptContentTypes, cfg.ContentType, cfg.QPS, cfg.Burst}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// TestClientAsks lets a server that speaks JSON only see what is asked for.
func TestClientAsks(t *testing.T) {
	var accept string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		accept = r.Header.Get("Accept")
		w.Header().Set("Content-Type", jsonType)
		_, _ = w.Write([]byte(`{"kind":"Node","apiVersion":"v1","metadata":{"name":"n1"}}`))
	}))
	defer server.Close()
	client, err := NewClient(ClientOptions{Master: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	n, err := client.CoreV1().Nodes().Get(context.Background(), "n1", metav1.GetOptions{})
	if err != nil || n.Name != "n1" {
		t.Errorf("got node %v, error %v", n, err)
	}
	if want := protobufType + "," + jsonType; accept != want {
		t.Errorf("Accept is %q, want %q", accept, want)
	}
}
