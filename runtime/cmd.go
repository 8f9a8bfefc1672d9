package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Cmd runs a command in an image, in the shape of exec.Cmd. Use one Cmd for one command.
type Cmd struct {
	// Spec says what to run. Changes after Start have no effect.
	Spec *Spec
	// Plan is used instead of compiling Spec, unless nil.
	Plan *Plan
	// Executor and Session are those of StartOptions.
	Executor Executor
	Session  *Session
	// Stdin, Stdout and Stderr are the command's. Files are passed on; anything else is copied. Nil is the null device.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Cancel is called when the context of Run or Start ends; nil kills the command.
	Cancel func() error
	// WaitDelay bounds how long Wait waits after that for the command to end, and after its end for its output to be
	// closed by what it has left behind. Zero means no bound.
	WaitDelay time.Duration
	// Process is the command once it has started, ProcessState its end once it has been waited for.
	Process      *Process
	ProcessState *os.ProcessState

	closeAfterStart []io.Closer
	closeAfterWait  []io.Closer
	copies          []func() error
	copied          chan error
	cancelled       chan error
	stop            func() bool
	waited          bool
}

// NewCmd returns a Cmd for a specification.
func NewCmd(spec *Spec) *Cmd { return &Cmd{Spec: spec} }

// Run starts the command and waits for its end. An exit code other than 0 is an *exec.ExitError, as in package os/exec;
// a command that could not start, see Start. ExitCode turns either into a code.
func (c *Cmd) Run(ctx context.Context) error {
	if err := c.Start(ctx); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the command and returns what it wrote to standard output. Standard error is in the *exec.ExitError, unless
// Stderr is set.
func (c *Cmd) Output(ctx context.Context) ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("runtime: Stdout is set")
	}
	var stdout, stderr bytes.Buffer
	c.Stdout = &stdout
	capture := c.Stderr == nil
	if capture {
		c.Stderr = &stderr
	}
	err := c.Run(ctx)
	if e, ok := errors.AsType[*exec.ExitError](err); ok && capture {
		e.Stderr = stderr.Bytes()
	}
	return stdout.Bytes(), err
}

// CombinedOutput runs the command and returns what it wrote to standard output and standard error.
func (c *Cmd) CombinedOutput(ctx context.Context) ([]byte, error) {
	if c.Stdout != nil || c.Stderr != nil {
		return nil, errors.New("runtime: Stdout or Stderr is set")
	}
	var b bytes.Buffer
	c.Stdout, c.Stderr = &b, &b
	err := c.Run(ctx)
	return b.Bytes(), err
}

// StdinPipe returns a pipe to standard input, which Wait closes. Close it to let the command see the end of its input.
func (c *Cmd) StdinPipe() (io.WriteCloser, error) {
	if c.Stdin != nil {
		return nil, errors.New("runtime: Stdin is set")
	}
	r, w, err := c.pipe()
	if err != nil {
		return nil, err
	}
	c.Stdin = r
	c.closeAfterStart = append(c.closeAfterStart, r)
	once := &closeOnce{File: w}
	c.closeAfterWait = append(c.closeAfterWait, once)
	return once, nil
}

// StdoutPipe returns a pipe from standard output. Wait closes it: read it to its end before.
func (c *Cmd) StdoutPipe() (io.ReadCloser, error) { return c.outPipe(&c.Stdout, "Stdout") }

// StderrPipe is StdoutPipe for standard error.
func (c *Cmd) StderrPipe() (io.ReadCloser, error) { return c.outPipe(&c.Stderr, "Stderr") }

func (c *Cmd) outPipe(stream *io.Writer, name string) (io.ReadCloser, error) {
	if *stream != nil {
		return nil, fmt.Errorf("runtime: %s is set", name)
	}
	r, w, err := c.pipe()
	if err != nil {
		return nil, err
	}
	*stream = w
	c.closeAfterStart = append(c.closeAfterStart, w)
	c.closeAfterWait = append(c.closeAfterWait, r)
	return r, nil
}

func (c *Cmd) pipe() (r, w *os.File, err error) {
	if c.Process != nil {
		return nil, nil, errors.New("runtime: already started")
	}
	return os.Pipe()
}

// closeOnce is a file that both the user and Wait may close.
type closeOnce struct {
	*os.File
	once sync.Once
	err  error
}

func (c *closeOnce) Close() error {
	c.once.Do(func() { c.err = c.File.Close() })
	return c.err
}

// Start starts the command; see Plan.Start for its errors. When ctx ends, the command is killed.
func (c *Cmd) Start(ctx context.Context) error {
	if c.Process != nil {
		return errors.New("runtime: already started")
	}
	if err := c.start(ctx); err != nil {
		closeFiles(c.closeAfterStart)
		closeFiles(c.closeAfterWait)
		return err
	}
	closeFiles(c.closeAfterStart)
	c.copied = make(chan error, len(c.copies))
	for _, copy := range c.copies {
		go func() { c.copied <- copy() }()
	}
	c.cancelled = make(chan error, 1)
	c.stop = context.AfterFunc(ctx, func() {
		cancel := c.Cancel
		if cancel == nil {
			cancel = c.Process.Kill
		}
		if err := cancel(); errors.Is(err, os.ErrProcessDone) {
			c.cancelled <- nil
			return
		}
		if c.WaitDelay > 0 {
			time.AfterFunc(c.WaitDelay, func() { _ = c.Process.Kill() })
		}
		c.cancelled <- ctx.Err()
	})
	return nil
}

func (c *Cmd) start(ctx context.Context) error {
	if c.Plan == nil && c.Spec == nil {
		return errors.New("runtime: neither Spec nor Plan is set")
	}
	o := StartOptions{Executor: c.Executor, Session: c.Session}
	var err error
	if o.Stdin, err = c.input(); err != nil {
		return err
	}
	if o.Stdout, err = c.output(c.Stdout); err != nil {
		return err
	}
	if c.Stderr != nil && same(c.Stderr, c.Stdout) {
		o.Stderr = o.Stdout
	} else if o.Stderr, err = c.output(c.Stderr); err != nil {
		return err
	}
	if c.Plan != nil {
		c.Process, err = c.Plan.Start(ctx, &o)
	} else {
		c.Process, err = Start(ctx, c.Spec, &o)
	}
	return err
}

// same says whether two writers are one, which must not be written to by two copies at a time.
func same(a, b io.Writer) (equal bool) {
	defer func() { _ = recover() }() // of a comparison of types that have none
	return a == b
}

func (c *Cmd) input() (*os.File, error) {
	if f, ok := c.Stdin.(*os.File); ok || c.Stdin == nil {
		return f, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c.closeAfterStart = append(c.closeAfterStart, r)
	c.closeAfterWait = append(c.closeAfterWait, w)
	c.copies = append(c.copies, func() error {
		_, err := io.Copy(w, c.Stdin)
		if errors.Is(err, syscall.EPIPE) {
			err = nil // the command need not read all of its input
		}
		return errors.Join(err, w.Close())
	})
	return r, nil
}

func (c *Cmd) output(to io.Writer) (*os.File, error) {
	if f, ok := to.(*os.File); ok || to == nil {
		return f, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c.closeAfterStart = append(c.closeAfterStart, w)
	c.closeAfterWait = append(c.closeAfterWait, r)
	c.copies = append(c.copies, func() error {
		_, err := io.Copy(to, r)
		return err
	})
	return w, nil
}

// Wait waits for the end of a command that was started, and of the copying of its input and output.
func (c *Cmd) Wait() error {
	if c.Process == nil || c.waited {
		return errors.New("runtime: not started, or waited for already")
	}
	c.waited = true
	state, err := c.Process.Wait()
	c.ProcessState = state
	if err == nil && !state.Success() {
		err = &exec.ExitError{ProcessState: state}
	}
	if !c.stop() { // the context has ended, and its function runs or has run
		if cancelErr := <-c.cancelled; cancelErr != nil {
			err = cancelErr
		}
	}
	if copyErr := c.waitCopies(); err == nil {
		err = copyErr
	}
	closeFiles(c.closeAfterWait)
	return err
}

func (c *Cmd) waitCopies() error {
	var timeout <-chan time.Time
	if c.WaitDelay > 0 {
		timer := time.NewTimer(c.WaitDelay)
		defer timer.Stop()
		timeout = timer.C
	}
	var first error
	for range c.copies {
		select {
		case err := <-c.copied:
			if first == nil {
				first = err
			}
		case <-timeout:
			closeFiles(c.closeAfterWait) // ends the copies
			return exec.ErrWaitDelay
		}
	}
	return first
}

func closeFiles[F io.Closer](files []F) {
	for _, f := range files {
		_ = f.Close()
	}
}
