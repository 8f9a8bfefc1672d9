package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// process is a program to be run and measured.
type process struct {
	argv  []string
	stdin string   // a file; "" is nothing
	env   []string // beside this program's
}

// ours returns the process in which this program does a job of its own.
func ours(args ...string) (process, error) {
	self, err := os.Executable()
	if err != nil {
		return process{}, err
	}
	return process{argv: append([]string{self, childCommand}, args...)}, nil
}

// cost is what one run took.
type cost struct {
	Wall time.Duration `json:"wall_ns"`
	CPU  time.Duration `json:"cpu_ns"` // user and system
	RSS  int64         `json:"rss"`    // peak, in bytes; 0 where it is not known
	Size int64         `json:"size"`   // of what was made, if that is one file
	// Written counts the bytes that were written to files, on their way to a disk; 0 where it is not known.
	Written int64 `json:"written,omitempty"`
}

// run runs p to its end. What it prints on its standard output is returned.
func (p process) run(ctx context.Context) (cost, []byte, error) {
	cmd := exec.CommandContext(ctx, p.argv[0], p.argv[1:]...)
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if len(p.env) > 0 {
		cmd.Env = append(os.Environ(), p.env...)
	}
	// Pipes of a child that is killed may be held open by children of its own.
	cmd.WaitDelay = time.Second
	if p.stdin != "" {
		f, err := os.Open(p.stdin)
		if err != nil {
			return cost{}, nil, err
		}
		defer f.Close()
		cmd.Stdin = f
	}
	begin := time.Now()
	err := cmd.Run()
	c := cost{Wall: time.Since(begin)}
	if ctx.Err() != nil {
		return c, nil, ctx.Err()
	}
	if err != nil {
		return c, nil, fmt.Errorf("%s: %w: %s", strings.Join(p.argv, " "), err, lastLine(problem.String()+out.String()))
	}
	c.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	c.RSS, c.Written = peakRSS(cmd.ProcessState), written(cmd.ProcessState)
	return c, out.Bytes(), nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// lookUp returns the path of a program, or "" after saying that it is missing.
func lookUp(stderr io.Writer, name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		fmt.Fprintf(stderr, "bench: %s is not installed, its rows are left out\n", name)
	}
	return path
}
