package e2e

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"turnout/proxy/proxytest/lab"
)

// response is an answer to an HTTP request, with its whole body.
type response struct {
	status int
	header http.Header
	body   string
}

// get asks a server on the node, from the node.
func (p *process) get(address, path string) (*response, error) {
	return fetch(p.Node(), http.MethodGet, address, path, nil)
}

// fetch makes an HTTP request from a host of the lab.
func fetch(from *lab.Host, method, address, path string, header http.Header) (*response, error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: from.DialContext}
	request, err := http.NewRequest(method, "http://"+address+path, nil)
	if err != nil {
		return nil, err
	}
	maps.Copy(request.Header, header)
	answer, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	return &response{answer.StatusCode, answer.Header, string(body)}, nil
}

// metrics returns all samples of the proxy's metrics server, by name and labels as they are written: name{label="value"}.
func (p *process) metrics() (map[string]float64, error) {
	answer, err := p.get("127.0.0.1:10249", "/metrics")
	if err != nil {
		return nil, err
	}
	if answer.status != http.StatusOK {
		return nil, fmt.Errorf("/metrics: status %d", answer.status)
	}
	samples := map[string]float64{}
	for line := range strings.Lines(answer.body) {
		name, value, ok := cutLast(strings.TrimSpace(line), " ")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		if samples[name], err = strconv.ParseFloat(value, 64); err != nil {
			return nil, fmt.Errorf("/metrics: %q: %w", line, err)
		}
	}
	return samples, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
