package dir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T, folder, name, data string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(folder, name), []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// service returns the manifest of default/name.
func service(name, clusterIP string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {clusterIP: %s}\n", name, clusterIP)
}

func node(name string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Node\nmetadata: {name: %s}\n", name)
}

func TestNewWantsAFolder(t *testing.T) {
	folder := t.TempDir()
	write(t, folder, "file", "")
	missing := filepath.Join(folder, "missing")
	for dir, want := range map[string]string{
		"":                            `--manifests="": no folder is named; give the path of a folder with YAML or JSON files`,
		missing:                       "--manifests=" + missing + ": the folder does not exist; create it or correct the path: ",
		filepath.Join(folder, "file"): "want a folder with YAML or JSON files: ",
	} {
		_, err := New(dir, Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New(%q): got error %v, want %q", dir, err, want)
		}
		if _, _, err2 := Load(dir, ""); err2 == nil || err2.Error() != err.Error() {
			t.Errorf("Load(%q): got error %v, want %v", dir, err2, err)
		}
	}
	if _, err := os.Stat(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the missing folder was made: %v", err)
	}
}

func TestLoad(t *testing.T) {
	folder := t.TempDir()
	write(t, folder, "a.yaml", node("n0")+"---\n"+node("n1")+"---\n"+node("n2"))
	write(t, folder, "b.yaml", service("web", "10.0.0.1")+"---\n"+service("headless", "None")+"---\n"+
		strings.Replace(service("foreign", "10.0.0.2"), "{name", "{labels: {service.kubernetes.io/service-proxy-name: x}, name", 1))
	write(t, folder, "c.json", `{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4",`+
		`"metadata":{"name":"web-1","labels":{"kubernetes.io/service-name":"web"}}}`+
		`{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4",`+
		`"metadata":{"name":"h","labels":{"kubernetes.io/service-name":"h","service.kubernetes.io/headless":""}}}`)
	write(t, folder, "d.yml", "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: c}\nspec: {cidrs: [10.0.0.0/24]}\n")
	write(t, folder, "e.yaml", "no manifest")
	write(t, folder, "f.yaml.bak", service("backup", "10.0.0.9"))
	write(t, folder, ".g.yaml", service("hidden", "10.0.0.9"))
	must(t, os.Mkdir(filepath.Join(folder, "h.yaml"), 0o700))
	must(t, os.Symlink("nowhere", filepath.Join(folder, "i.yaml")))
	must(t, syscall.Mkfifo(filepath.Join(folder, "j.yaml"), 0o600))
	o, problems, err := Load(folder, "n1")
	must(t, err)
	m := newMemory(t)
	o.Deliver(m)
	want := []string{"EndpointSlice default/web-1 IPv4", "Node n1", "Service default/web 10.0.0.1", "ServiceCIDR c 10.0.0.0/24", "synced"}
	if d := cmp.Diff(want, m.dump()); d != "" {
		t.Errorf("objects (-want +got):\n%s", d)
	}
	wantProblems := []string{
		"error e.yaml:1: document 1: want an object, have string",
		"error i.yaml: cannot be read: no such file or directory",
		"error j.yaml: cannot be read: it is not a regular file but p---------",
	}
	if d := cmp.Diff(wantProblems, textsOf(problems)); d != "" {
		t.Errorf("problems (-want +got):\n%s", d)
	}
}

func TestFollowsFiles(t *testing.T) {
	folder := t.TempDir()
	write(t, folder, "a.yaml", service("a", "10.0.0.1"))
	m, b := start(t, folder, nil)
	m.want("Service default/a 10.0.0.1", "synced")

	write(t, folder, "b.yaml", service("b", "10.0.0.2")+"---\n"+node("n1"))
	m.want("Node n1", "Service default/a 10.0.0.1", "Service default/b 10.0.0.2", "synced")

	write(t, folder, "a.yaml", service("a", "10.0.0.3")) // the same length
	m.want("Node n1", "Service default/a 10.0.0.3", "Service default/b 10.0.0.2", "synced")

	// As editors save: a new file is renamed over the old.
	write(t, folder, ".a.yaml.swp", service("a", "10.0.0.4"))
	must(t, os.Rename(filepath.Join(folder, ".a.yaml.swp"), filepath.Join(folder, "a.yaml")))
	m.want("Node n1", "Service default/a 10.0.0.4", "Service default/b 10.0.0.2", "synced")

	must(t, os.Remove(filepath.Join(folder, "b.yaml")))
	m.want("Service default/a 10.0.0.4", "synced")
	if got := b.texts(); len(got) > 0 {
		t.Errorf("problems %v", got)
	}
	calls := m.count()
	if want := 8; calls != want { // 5 Sets, 2 deletes, Synced
		t.Errorf("the sink was called %d times, want %d: only what changed is delivered", calls, want)
	}
}

func TestBrokenThenMended(t *testing.T) {
	folder := t.TempDir()
	write(t, folder, "a.yaml", service("a", "10.0.0.1")+"---\n"+service("b", "10.0.0.2"))
	write(t, folder, "broken.yaml", "{")
	write(t, folder, "c.yaml", service("c", "10.0.0.3"))
	m, box := start(t, folder, nil)
	m.want("Service default/a 10.0.0.1", "Service default/b 10.0.0.2", "Service default/c 10.0.0.3", "synced")
	start := "error broken.yaml:1: document 1: is not YAML: did not find expected node content"
	wantProblems := func(want ...string) {
		t.Helper()
		m.until(func() bool { return slices.Equal(box.texts(), want) }, func() string { return cmp.Diff(want, box.texts()) })
	}
	wantProblems(start)

	// The file loses its second object and breaks: that object stays, and the good one is followed.
	write(t, folder, "a.yaml", service("a", "10.0.0.9")+"---\n"+strings.Replace(service("b", "10.0.0.2"), "10.0.0.2", "[x]", 1))
	wantProblems("error a.yaml:9: document 2: Service default/b: spec.clusterIP: want a string, have array", start)
	m.want("Service default/a 10.0.0.9", "Service default/b 10.0.0.2", "Service default/c 10.0.0.3", "synced")

	// It breaks altogether.
	write(t, folder, "a.yaml", "}")
	wantProblems("error a.yaml:1: document 1: is not YAML: did not find expected node content", start)
	m.want("Service default/a 10.0.0.9", "Service default/b 10.0.0.2", "Service default/c 10.0.0.3", "synced")

	write(t, folder, "a.yaml", service("a", "10.0.0.8"))
	write(t, folder, "broken.yaml", service("d", "10.0.0.4"))
	m.want("Service default/a 10.0.0.8", "Service default/c 10.0.0.3", "Service default/d 10.0.0.4", "synced")
	wantProblems()
}

func TestSameObjectInTwoFiles(t *testing.T) {
	folder := t.TempDir()
	write(t, folder, "b.yaml", service("a", "10.0.0.2")+"---\n"+service("a", "10.0.0.3"))
	m, box := start(t, folder, nil)
	m.want("Service default/a 10.0.0.2", "synced")
	second := "error b.yaml:6: document 2: Service default/a: is not used, because %s defines it too; remove one of them"
	if d := cmp.Diff([]string{fmt.Sprintf(second, "b.yaml:1")}, box.texts()); d != "" {
		t.Errorf("problems (-want +got):\n%s", d)
	}
	write(t, folder, "a.yaml", "apiVersion: v1\nkind: List\nitems:\n- "+strings.ReplaceAll(service("a", "10.0.0.1"), "\n", "\n  "))
	m.want("Service default/a 10.0.0.1", "synced")
	want := []string{
		"error b.yaml:1: document 1: Service default/a: is not used, because a.yaml:1 items[0] defines it too; remove one of them",
		fmt.Sprintf(second, "a.yaml:1 items[0]"),
	}
	m.until(func() bool { return slices.Equal(box.texts(), want) }, func() string { return cmp.Diff(want, box.texts()) })
	must(t, os.Remove(filepath.Join(folder, "a.yaml")))
	m.want("Service default/a 10.0.0.2", "synced")
}

// TestConfigMapVolume swaps the link through which a kubelet shows the files of a ConfigMap.
func TestConfigMapVolume(t *testing.T) {
	folder := t.TempDir()
	version := func(name, clusterIP string) {
		must(t, os.Mkdir(filepath.Join(folder, name), 0o700))
		write(t, filepath.Join(folder, name), "a.yaml", service("a", clusterIP))
		must(t, os.Symlink(name, filepath.Join(folder, "..data_tmp")))
		must(t, os.Rename(filepath.Join(folder, "..data_tmp"), filepath.Join(folder, "..data")))
	}
	version("..2026_01", "10.0.0.1")
	must(t, os.Symlink("..data/a.yaml", filepath.Join(folder, "a.yaml")))
	m, box := start(t, folder, nil)
	m.want("Service default/a 10.0.0.1", "synced")
	for i := range 5 {
		version(fmt.Sprintf("..2026_1%d", i), fmt.Sprintf("10.0.1.%d", i))
		m.want(fmt.Sprintf("Service default/a 10.0.1.%d", i), "synced")
	}
	if got := box.texts(); len(got) > 0 {
		t.Errorf("problems %v", got)
	}
}

func TestFolderRemovedAndMadeAnew(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "manifests")
	must(t, os.Mkdir(folder, 0o700))
	write(t, folder, "a.yaml", service("a", "10.0.0.1"))
	m, box := start(t, folder, func(s *Source) { s.poll = time.Hour })
	m.want("Service default/a 10.0.0.1", "synced")
	for i := range 3 {
		must(t, os.RemoveAll(folder))
		m.until(func() bool { return len(box.texts()) == 1 }, func() string { return "no problem was told" })
		if got := box.texts()[0]; !strings.HasPrefix(got, "error the folder cannot be read: ") {
			t.Errorf("problem %q", got)
		}
		must(t, os.Mkdir(folder, 0o700))
		write(t, folder, "a.yaml", service("a", fmt.Sprintf("10.0.1.%d", i)))
		m.want(fmt.Sprintf("Service default/a 10.0.1.%d", i), "synced")
		write(t, folder, "a.yaml", service("a", fmt.Sprintf("10.0.2.%d", i)))
		m.want(fmt.Sprintf("Service default/a 10.0.2.%d", i), "synced")
	}
	other := folder + "-new"
	must(t, os.Mkdir(other, 0o700))
	write(t, other, "a.yaml", service("a", "10.0.3.1"))
	must(t, os.Rename(folder, folder+"-old"))
	must(t, os.Rename(other, folder))
	m.want("Service default/a 10.0.3.1", "synced")
	write(t, folder, "a.yaml", service("a", "10.0.3.2"))
	m.want("Service default/a 10.0.3.2", "synced")
}

// TestAuditSeesALinkedPath changes where a link in the middle of the path leads, of which inotify does not tell.
func TestAuditSeesALinkedPath(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"1", "2"} {
		must(t, os.MkdirAll(filepath.Join(root, name, "manifests"), 0o700))
		write(t, filepath.Join(root, name, "manifests"), "a.yaml", service("a", "10.0.0."+name))
	}
	must(t, os.Symlink("1", filepath.Join(root, "current")))
	folder := filepath.Join(root, "current", "manifests")
	m, _ := start(t, folder, func(s *Source) { s.audit = 20 * time.Millisecond })
	m.want("Service default/a 10.0.0.1", "synced")
	must(t, os.Symlink("2", filepath.Join(root, "next")))
	must(t, os.Rename(filepath.Join(root, "next"), filepath.Join(root, "current")))
	m.want("Service default/a 10.0.0.2", "synced")
	write(t, folder, "a.yaml", service("a", "10.0.0.3"))
	m.want("Service default/a 10.0.0.3", "synced")
}

func TestPollsWithoutInotify(t *testing.T) {
	folder := t.TempDir()
	write(t, folder, "a.yaml", service("a", "10.0.0.1"))
	m, _ := start(t, folder, func(s *Source) {
		s.poll = 20 * time.Millisecond
		s.watch.create = func() (*fsnotify.Watcher, error) { return nil, syscall.EMFILE }
	})
	m.want("Service default/a 10.0.0.1", "synced")
	write(t, folder, "a.yaml", service("a", "10.0.0.2")) // same size, and within one step of the clock
	m.want("Service default/a 10.0.0.2", "synced")
	must(t, os.Remove(filepath.Join(folder, "a.yaml")))
	m.want("synced")
}

// TestOverflow changes a file behind a link, of which inotify does not tell, and says that events were lost.
func TestOverflow(t *testing.T) {
	folder, elsewhere := t.TempDir(), t.TempDir()
	write(t, elsewhere, "a.yaml", service("a", "10.0.0.1"))
	must(t, os.Symlink(filepath.Join(elsewhere, "a.yaml"), filepath.Join(folder, "a.yaml")))
	watchers := make(chan *fsnotify.Watcher, 10)
	m, _ := start(t, folder, func(s *Source) {
		s.watch.create = func() (*fsnotify.Watcher, error) {
			w, err := fsnotify.NewWatcher()
			watchers <- w
			return w, err
		}
	})
	m.want("Service default/a 10.0.0.1", "synced")
	write(t, elsewhere, "a.yaml", service("a", "10.0.0.2"))
	(<-watchers).Errors <- fsnotify.ErrEventOverflow
	m.want("Service default/a 10.0.0.2", "synced")
	select {
	case <-watchers: // the folder itself may have been replaced meanwhile
	case <-time.After(20 * time.Second):
		t.Error("no new watch was taken after events were lost")
	}
}

// TestEmptiedFile empties a file: its objects go only when it stays so, for it may be about to be written anew.
func TestEmptiedFile(t *testing.T) {
	folder := t.TempDir()
	write(t, folder, "a.yaml", service("a", "10.0.0.1"))
	write(t, folder, "b.yaml", service("b", "10.0.0.1"))
	m, _ := start(t, folder, func(s *Source) { s.folder.grace = 300 * time.Millisecond })
	m.want("Service default/a 10.0.0.1", "Service default/b 10.0.0.1", "synced")
	emptied := time.Now()
	write(t, folder, "a.yaml", "")
	write(t, folder, "b.yaml", service("b", "10.0.0.2"))
	m.want("Service default/b 10.0.0.2", "synced")
	if took := time.Since(emptied); took < 290*time.Millisecond {
		t.Errorf("the objects were deleted after %v", took)
	}
	write(t, folder, "a.yaml", service("a", "10.0.0.3"))
	m.want("Service default/a 10.0.0.3", "Service default/b 10.0.0.2", "synced")
}

func TestTwoThousandFiles(t *testing.T) {
	folder := t.TempDir()
	var want []string
	for i := range 2000 {
		write(t, folder, fmt.Sprintf("%d.yaml", i), service(fmt.Sprintf("s%d", i), "10.0.0.1"))
		want = append(want, fmt.Sprintf("Service default/s%d 10.0.0.1", i))
	}
	slices.Sort(want)
	m, _ := start(t, folder, nil)
	m.want(append(slices.Clone(want), "synced")...)
	for i := range 2000 {
		write(t, folder, fmt.Sprintf("%d.yaml", i), service(fmt.Sprintf("s%d", i), "10.0.0.2"))
		want[i] = strings.Replace(want[i], "10.0.0.1", "10.0.0.2", 1)
	}
	m.want(append(slices.Clone(want), "synced")...)
	if calls, most := m.count(), 4001; calls > most {
		t.Errorf("the sink was called %d times, want at most %d", calls, most)
	}
	must(t, os.RemoveAll(folder))
	must(t, os.Mkdir(folder, 0o700))
	m.want("synced")
}

// TestSettles writes to one file without a pause: the others are followed all the same, and this one when it is quiet.
// TestOverdue has the details.
func TestSettles(t *testing.T) {
	folder := t.TempDir()
	m, _ := start(t, folder, func(s *Source) { s.opts.Settle = 50 * time.Millisecond })
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		hot := filepath.Join(folder, "hot.yaml")
		for i := 0; ; i++ {
			clusterIP := fmt.Sprintf("10.0.%d.%d", i/250, i%250)
			if err := os.WriteFile(hot, []byte(service("hot", clusterIP)), 0o600); err != nil {
				t.Error(err)
			}
			select {
			case <-stop:
				if err := os.WriteFile(hot, []byte(service("hot", "10.9.9.9")), 0o600); err != nil {
					t.Error(err)
				}
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	// On a busy machine the writer may pause for so long that its file is read too, so that only the others are looked at.
	for _, name := range []string{"a", "b"} {
		write(t, folder, name+".yaml", service(name, "10.0.0.1"))
		want := "Service default/" + name + " 10.0.0.1"
		m.until(func() bool { return slices.Contains(m.dump(), want) }, func() string { return "+" + want })
	}
	close(stop)
	<-stopped
	m.want("Service default/a 10.0.0.1", "Service default/b 10.0.0.1", "Service default/hot 10.9.9.9", "synced")
}

// TestOverdue checks that a file which is written for ever is read at some time.
func TestOverdue(t *testing.T) {
	w := newWatch("/x")
	t0 := time.Now()
	w.lockedTouch("a", t0)
	w.lockedTouch("a", t0.Add(time.Minute))
	w.lockedTouch("b", t0)
	if p := w.take(t0, t0.Add(-time.Second)); p.interest("a") != leave || p.interest("b") != force || p.interest("c") != look {
		t.Errorf("at first: %+v", p)
	}
	if len(w.wake) != 1 {
		t.Error("nothing will come back to the file that is left alone")
	}
	if p := w.take(t0, t0.Add(time.Second)); p.interest("a") != force || p.interest("b") != look {
		t.Errorf("when overdue: %+v", p)
	}
	if p := w.take(t0, t0.Add(time.Second)); p.names != nil {
		t.Errorf("afterwards: %+v", p)
	}
}
