package proxytest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// reexecEnv marks a process that was started again by Reexec; its value is the reason why the first one had to.
const reexecEnv = "TURNOUT_IN_USER_NAMESPACE"

// Main is the body of a TestMain whose tests need network namespaces: as root it runs the tests; otherwise it runs the test
// binary again in a user namespace in which it is root, if the kernel lets it, and else runs the tests, which then skip
// themselves. It returns the exit code.
func Main(m interface{ Run() int }) int {
	code, err := Reexec()
	if err != nil {
		return m.Run()
	}
	if code >= 0 {
		return code
	}
	return m.Run()
}

// Reexec makes sure that the process may make network namespaces. If it may already, it returns -1 and nil. Otherwise it
// runs the same program with the same arguments in a new user namespace, where it maps to root, and returns its exit code.
// The error says why neither is possible.
func Reexec() (code int, err error) {
	reason := Privileged()
	if reason == nil {
		return -1, nil
	}
	if os.Getenv(reexecEnv) != "" {
		return -1, reason
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), reexecEnv+"="+reason.Error())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// Signals are passed on by wait: a terminal would send its own to both, and a second one may end a program at once.
		Setpgid: true, Pdeathsig: unix.SIGTERM,
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	runtime.LockOSThread() // Pdeathsig is about the thread that starts the program
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return -1, fmt.Errorf("%w, or allow unprivileged user namespaces (%w)", reason, err)
	}
	return wait(cmd)
}

// wait passes on signals that end a program, so that the child can clean up, and returns its exit code.
func wait(cmd *exec.Cmd) (int, error) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s)
		case err := <-done:
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				return -1, fmt.Errorf("wait for the program in a user namespace: %w", err)
			}
			if code := cmd.ProcessState.ExitCode(); code >= 0 {
				return code, nil
			}
			return 1, nil
		}
	}
}
