package plane

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"turnout/proxy/proxytest/lab"
)

// Process is a program that runs, or ran, on a host of the lab.
type Process struct {
	name  string
	cmd   *exec.Cmd
	log   string
	ended chan struct{} // closed when it is gone; cmd.ProcessState is set then
}

// Run starts a program on a host, with its output appended to a log file. It is killed when the lab is closed or this process ends.
func Run(host *lab.Host, log string, program string, args ...string) (*Process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", program, err)
	}
	defer out.Close() // the child has its own
	p := &Process{name: filepath.Base(program), cmd: exec.Command(program, args...), log: log, ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	if err := host.Start(p.cmd); err != nil {
		return nil, fmt.Errorf("start %s on %s: %w", program, host.Name, err)
	}
	go func() {
		_ = p.cmd.Wait() // ProcessState has all of it
		close(p.ended)
	}()
	return p, nil
}

// PID returns the number of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Ended is closed when the process is gone.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Running tells whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// Signal sends a signal; one that comes too late does nothing.
func (p *Process) Signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// Kill ends the process without giving it a chance to do anything (SIGKILL), and waits until it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// Stop tells the process to end (SIGTERM), and waits. After the timeout it is killed, which is an error, as is any exit status but 0.
func (p *Process) Stop(timeout time.Duration) error {
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(timeout):
		p.Kill()
		return fmt.Errorf("%s did not end within %v of SIGTERM", p.name, timeout)
	}
	if code := p.ExitCode(); code != 0 {
		return fmt.Errorf("%s ended with %v", p.name, p.cmd.ProcessState)
	}
	return nil
}

// ExitCode waits for the end and returns the exit code, -1 after a signal.
func (p *Process) ExitCode() int {
	<-p.ended
	return p.cmd.ProcessState.ExitCode()
}

// Log returns what the process wrote so far, and what others wrote to the same log file before it.
func (p *Process) Log() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Tail returns the end of the log, as much as a person may want to read.
func (p *Process) Tail() string {
	const most = 12 << 10
	text := p.Log()
	if len(text) > most {
		text = "…" + text[len(text)-most:]
	}
	return text
}
