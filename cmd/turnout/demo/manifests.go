package demo

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	discovery "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"

	"turnout/examples"
)

// manifests is a copy of the examples that the proxy follows.
type manifests struct {
	folder string
	next   string // a new version of a file is written here before it takes its place
}

// copyManifests makes the copy inside a folder.
func copyManifests(inside string) (*manifests, error) {
	m := &manifests{folder: filepath.Join(inside, "manifests"), next: filepath.Join(inside, "next")}
	if err := os.Mkdir(m.folder, 0o755); err != nil {
		return nil, err
	}
	names, err := fs.Glob(examples.Files, "*")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if err := m.restore(name); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// restore makes a file what it is in the examples.
func (m *manifests) restore(name string) error {
	content, err := examples.Files.ReadFile(name)
	if err != nil {
		return err
	}
	return m.write(name, content)
}

// write replaces a file, so that nobody sees half of it.
func (m *manifests) write(name string, content []byte) error {
	if err := os.WriteFile(m.next, content, 0o644); err != nil {
		return err
	}
	return os.Rename(m.next, filepath.Join(m.folder, name))
}

// separator is between the documents of a file.
const separator = "\n---\n"

// edit changes every endpoint with an address in a file; change returns false for one that is to be removed. It is an error
// if there is none.
func (m *manifests) edit(name string, address string, change func(*discovery.Endpoint) bool) error {
	content, err := os.ReadFile(filepath.Join(m.folder, name))
	if err != nil {
		return err
	}
	found := false
	documents := bytes.Split(content, []byte(separator))
	for i, text := range documents {
		var slice discovery.EndpointSlice
		if err := yaml.Unmarshal(text, &slice); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if slice.Kind != "EndpointSlice" {
			continue
		}
		var kept []discovery.Endpoint
		for _, e := range slice.Endpoints {
			match := e.Addresses[0] == address
			found = found || match
			if !match || change(&e) {
				kept = append(kept, e)
			}
		}
		slice.Endpoints = kept
		if documents[i], err = yaml.Marshal(&slice); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if !found {
		return fmt.Errorf("%s has no endpoint %s", name, address)
	}
	return m.write(name, bytes.Join(documents, []byte(separator)))
}

// terminating makes an endpoint one that still works but shall get no new connections.
func terminating(e *discovery.Endpoint) bool {
	yes, no := true, false
	e.Conditions = discovery.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}
	return true
}

// gone removes an endpoint.
func gone(*discovery.Endpoint) bool { return false }
