package image

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestContents checks that the image has the program under its two names and nothing else, and that the program needs nothing else.
func TestContents(t *testing.T) {
	files := map[string]string{}
	var program []byte
	var config struct {
		Config struct{ Entrypoint, Cmd []string }
	}
	image := readImage(t, archive(t, *archiveFlag))
	if err := json.Unmarshal(image.config, &config); err != nil {
		t.Fatal(err)
	}
	for _, layer := range image.layers {
		for file := range entries(t, layer) {
			switch file.header.Typeflag {
			case tar.TypeReg:
				files[file.header.Name] = "file"
				program = file.content
			case tar.TypeSymlink:
				files[file.header.Name] = "link to " + file.header.Linkname
			}
		}
	}
	want := map[string]string{"usr/local/bin/turnout": "file", "usr/local/bin/kube-proxy": "link to turnout"}
	if diff := cmp.Diff(want, files); diff != "" {
		t.Errorf("files (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]string{"/usr/local/bin/turnout"}, config.Config.Entrypoint); diff != "" {
		t.Errorf("entry point (-want +got)\n%s", diff)
	}
	binary, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range binary.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the program is linked dynamically")
		}
	}
}

// image is what docker save writes, as far as it matters here.
type image struct {
	config []byte
	layers [][]byte
}

func readImage(t *testing.T, file string) image {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	contents := map[string][]byte{}
	for e := range entries(t, raw) {
		contents[path.Clean(e.header.Name)] = e.content
	}
	var manifest []struct {
		Config string
		Layers []string
	}
	if err := json.Unmarshal(contents["manifest.json"], &manifest); err != nil || len(manifest) != 1 {
		t.Fatalf("%s has no manifest of one image: %v", file, err)
	}
	out := image{config: contents[manifest[0].Config]}
	for _, name := range manifest[0].Layers {
		out.layers = append(out.layers, contents[name])
	}
	return out
}

type entry struct {
	header  *tar.Header
	content []byte
}

// entries reads a tar archive.
func entries(t *testing.T, raw []byte) func(yield func(entry) bool) {
	return func(yield func(entry) bool) {
		r := tar.NewReader(bytes.NewReader(raw))
		for {
			header, err := r.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			if !yield(entry{header, content}) {
				return
			}
		}
	}
}
