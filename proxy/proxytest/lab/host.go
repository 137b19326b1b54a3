package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"turnout/proxy/proxytest"
)

// Host is one network namespace of the lab.
type Host struct {
	proxytest.Host
	ns *os.File
	// keeper runs functions on one OS thread that is in the namespace as long as the host lives.
	keeper chan func()
	done   chan struct{} // closed with the host

	mu      sync.Mutex // guards closers and closed
	closers []io.Closer
	closed  bool
}

var errClosed = errors.New("lab is closed")

// newHost makes a namespace with its loopback interface up, and a thread that stays in it.
func newHost(h proxytest.Host) (*Host, error) {
	host := &Host{Host: h, keeper: make(chan func()), done: make(chan struct{})}
	started := make(chan error)
	offMainThread(func() {
		var err error
		if host.ns, err = newNamespace(); err != nil {
			started <- err
			return
		}
		started <- nil
		for {
			select {
			case fn := <-host.keeper:
				fn()
			case <-host.done:
				return
			}
		}
	})
	if err := <-started; err != nil {
		return nil, err
	}
	if err := host.Do(prepare); err != nil {
		return nil, errors.Join(err, host.close())
	}
	return host, nil
}

// offMainThread runs fn on an OS thread of its own that ends with it. It is never the process's first thread, as that one
// decides what /proc/net and /proc/self/ns/net are.
func offMainThread(fn func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			fn()
			return
		}
		hop := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(hop)
			fn()
		}()
		<-hop
		runtime.UnlockOSThread()
	}()
}

// newNamespace puts the calling thread into a new network namespace and returns a handle of it.
func newNamespace() (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("unshare: %w", err)
	}
	return os.Open("/proc/thread-self/ns/net")
}

// Do runs fn in the host's namespace: sockets that it opens are, and stay, in there. It runs on an OS thread of its own;
// goroutines that it starts are not in the namespace. Any number of calls may run at the same time.
func (h *Host) Do(fn func() error) error {
	result := make(chan error, 1)
	finished := false
	go func() {
		runtime.LockOSThread()
		defer func() {
			if !finished { // fn left by runtime.Goexit or panic: the thread ends in the wrong namespace, and with it
				result <- errors.New("function in namespace did not return")
			}
		}()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err == nil {
			defer home.Close()
			err = unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNET)
		}
		if err != nil {
			finished = true
			result <- fmt.Errorf("enter namespace of %s: %w", h.Name, err)
			return
		}
		err = fn()
		finished = true
		// A thread that cannot go back stays locked, and so ends here.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// DialContext connects like net.Dialer.DialContext, from the host. The address must be an IP address with a port.
func (h *Host) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	inside := h.Do(func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, inside
}

// Start starts a process in the namespace, like cmd.Start. It is killed when the lab is closed or this process ends, unless
// it ended before; the caller must call cmd.Wait.
func (h *Host) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	// The signal comes when the thread that started the process ends, which is the keeper's.
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	return h.keep(cmd.Start)
}

// keep runs fn on the keeper's thread.
func (h *Host) keep(fn func() error) error {
	result := make(chan error, 1)
	select {
	case h.keeper <- func() { result <- fn() }:
		return <-result
	case <-h.done:
		return errClosed
	}
}

// Path is a file name by which other programs can enter the namespace while this process lives, as in
// "nsenter --net=<path> nft list ruleset".
func (h *Host) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.ns.Fd()) }

// own closes c with the host, or at once if the host is closed already.
func (h *Host) own(c io.Closer) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return errors.Join(errClosed, c.Close())
	}
	h.closers = append(h.closers, c)
	return nil
}

func (h *Host) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	close(h.done)
	var errs []error
	for _, c := range h.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(append(errs, h.ns.Close())...)
}
