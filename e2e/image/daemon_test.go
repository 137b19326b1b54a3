package image

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The images under test, as docker save writes them with the name turnout-under-test.
var (
	archiveFlag  = flag.String("archive", "", "the image of the default target; hack/image.sh builds it")
	iptablesFlag = flag.String("iptables-archive", "", "the image of the target iptables")
)

// netAdmin is what docker run is told to give a container the one capability that the proxy needs.
const netAdmin = "--cap-add NET_ADMIN"

// archive returns an image's file, or skips the test.
func archive(t *testing.T, file string) string {
	t.Helper()
	if file == "" {
		t.Skip("no image given: make image-test builds and tests it")
	}
	path, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// container prepares testdata/container for the test and returns its path. What the container may read belongs into shared.
func container(t *testing.T, image, options string) (program, shared string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("not root, so there is no Docker daemon of the test's own")
	}
	for _, tool := range []string{"dockerd", "docker"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	// Not t.TempDir: the path of a Unix socket may have 107 bytes.
	dir, err := os.MkdirTemp("", "turnout-image-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, dir) })
	shared = filepath.Join(dir, "shared")
	if err := os.Mkdir(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("IMAGE_DIR", dir)
	t.Setenv("IMAGE_ARCHIVE", image)
	t.Setenv("IMAGE_OPTIONS", options)
	program, err = filepath.Abs("testdata/container")
	if err != nil {
		t.Fatal(err)
	}
	return program, shared
}

// remove ends the daemon of a folder, if one was started, and removes the folder with what the daemon mounted there.
func remove(t *testing.T, dir string) {
	t.Helper()
	if err := stopDaemon(filepath.Join(dir, "pid")); err != nil {
		t.Error(err)
	}
	for _, point := range mountsBelow(t, dir) {
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Errorf("unmount %s: %v", point, err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}

// stopDaemon ends the daemon whose process ID is in a file, which the daemon removes.
func stopDaemon(pidFile string) error {
	text, err := os.ReadFile(pidFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("read %s: %w", pidFile, err)
	}
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		return fmt.Errorf("end the Docker daemon: %w", err)
	}
	for range 300 {
		if errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.Join(errors.New("the Docker daemon did not end within 30s, and was killed"), unix.Kill(pid, unix.SIGKILL))
}

// mountsBelow returns the mount points below a folder, the deepest first.
func mountsBelow(t *testing.T, dir string) []string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var points []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			points = append(points, fields[4])
		}
	}
	slices.Reverse(points)
	return points
}
