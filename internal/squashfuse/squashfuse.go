package squashfuse

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	// Name is the program's usual name.
	Name = "squashfuse_ll"
	// patience is how long the program may take to print its help.
	patience = 10 * time.Second
	// most is what is kept of anything that it prints, in bytes.
	most = 4096
)

// Program is an installed squashfuse_ll.
type Program struct {
	// Path is absolute.
	Path string
	// Version is what it calls itself: "squashfuse 0.5.2". That of Debian's 0.1.105 is 0.1.104.
	Version string
	// SetsOwner: it can be told who all files belong to (0.2 and later).
	SetsOwner bool
}

// Find looks a program up along PATH, by the name squashfuse_ll if none is given, and asks it what it is.
func Find(ctx context.Context, name string) (*Program, error) {
	path, err := exec.LookPath(cmp.Or(name, Name))
	if err != nil {
		return nil, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var text bytes.Buffer
	cmd := exec.CommandContext(ctx, path, "-h")
	cmd.Env, cmd.Dir, cmd.WaitDelay = []string{}, "/", time.Second // as Start has it
	cmd.Stdout = &limited{&text}
	cmd.Stderr = cmd.Stdout
	err = cmd.Run() // that it fails, with usage, is the custom
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || ctx.Err() != nil) {
		return nil, fmt.Errorf("%s -h: %w", path, cmp.Or(ctx.Err(), err))
	}
	help := text.String()
	version, _, _ := strings.Cut(help, "\n")
	version, _, _ = strings.Cut(version, " (")
	if !strings.HasPrefix(version, "squashfuse ") {
		return nil, fmt.Errorf("%s -h does not speak of squashfuse: %q", path, firstLine(help))
	}
	if !strings.Contains(help, "clone_fd") {
		return nil, fmt.Errorf("%s, %s, was built with libfuse 2, which cannot serve a device that is mounted already: it takes libfuse 3.3", path, version)
	}
	return &Program{Path: path, Version: version, SetsOwner: strings.Contains(help, "uid=")}, nil
}

// Options are what a program is to serve.
type Options struct {
	// Device is /dev/fuse, opened and mounted.
	Device *os.File
	// Image is a file with a squashfs image at Offset.
	Image  *os.File
	Offset int64
	// UID and GID own all files, as far as they are not 0 and the program can be told.
	UID, GID int
}

// Server is a squashfuse_ll that runs. Its methods may be used by many goroutines.
type Server struct {
	program *Program
	process *os.Process
	done    chan struct{}
	err     error
}

// wait reads what the program says until its end, and waits for that.
func (s *Server) wait(said *os.File) {
	var text bytes.Buffer
	_, _ = io.Copy(&limited{&text}, said)
	said.Close()
	state, err := s.process.Wait()
	if err == nil && !state.Success() {
		err = errors.New(state.String())
		if words := lines(text.String()); words != "" {
			err = fmt.Errorf("%w: %s", err, words)
		}
	}
	if err != nil {
		s.err = fmt.Errorf("%s: %w", s.program.Path, err)
	}
	close(s.done)
}

// Done is closed when the program has ended.
func (s *Server) Done() <-chan struct{} { return s.done }

// Wait waits for the end of the program. The error is nil if that was because nobody has the device mounted any more, and has
// what the program has said otherwise.
func (s *Server) Wait() error {
	<-s.done
	return s.err
}

// Kill ends the program, and with it the mount: who uses that gets errors.
func (s *Server) Kill() { _ = s.process.Kill() }

// limited keeps the beginning of what is written to it.
type limited struct{ b *bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	l.b.Write(p[:min(len(p), most-l.b.Len())])
	return len(p), nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// lines are several lines in one.
func lines(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
