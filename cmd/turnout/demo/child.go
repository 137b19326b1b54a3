package demo

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"turnout/proxy/proxytest/lab"
)

// child is the proxy as a process.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it ended and its log was read

	mu  sync.Mutex // guards log and err
	log []string
	err error // why it ended
}

// logLines is how much of the log is kept.
const logLines = 200

// startChild starts the proxy in the node's namespace; show, if the demo is verbose, is given each line of its log.
func startChild(node *lab.Host, o Options, folder string, show func(string)) (*child, error) {
	args := []string{
		"--manifests", folder,
		"--proxy-mode", "nftables",
		"--hostname-override", "n1",
		"--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48",
		"--conntrack-max-per-core", "0", "--conntrack-min", "0", // the machine's limit is not this namespace's to set
		"--conntrack-tcp-timeout-established", "0", "--conntrack-tcp-timeout-close-wait", "0",
		"--oom-score-adj", "0",
		"--healthz-bind-address", "127.0.0.1:10256",
	}
	if o.Verbose {
		args = append(args, "-v", "2")
	}
	c := &child{cmd: exec.Command(o.Executable, append(args, o.Args...)...), done: make(chan struct{})}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe for the proxy's log: %w", err)
	}
	c.cmd.Stdout, c.cmd.Stderr = write, write
	err = node.Start(c.cmd)
	_ = write.Close()
	if err != nil {
		_ = read.Close()
		return nil, fmt.Errorf("start %s: %w", o.Executable, err)
	}
	if !o.Verbose {
		show = func(string) {}
	}
	go c.follow(read, show)
	return c, nil
}

// follow reads the log until the process ends.
func (c *child) follow(r io.ReadCloser, show func(string)) {
	defer close(c.done)
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		c.mu.Lock()
		c.log = append(c.log, lines.Text())
		c.log = slices.Delete(c.log, 0, max(0, len(c.log)-logLines))
		c.mu.Unlock()
		show(lines.Text())
	}
	_ = r.Close()
	err := c.cmd.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// exited returns an error if the process has ended.
func (c *child) exited() error {
	select {
	case <-c.done:
	default:
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		return errors.New("the proxy has ended")
	}
	return fmt.Errorf("the proxy has ended: %w", c.err)
}

// stop tells the process to end and waits for it; one that does not is killed.
func (c *child) stop() error {
	if c.exited() != nil {
		return nil
	}
	_ = c.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-c.done:
	case <-time.After(5 * time.Second):
		_ = c.cmd.Process.Kill()
		<-c.done
		return errors.New("the proxy did not end when it was told to, and was killed")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return fmt.Errorf("the proxy ended with an error: %w", c.err)
	}
	return nil
}

// kill ends the process without notice.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	<-c.done
}

func (c *child) logTail() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.log, "\n")
}
