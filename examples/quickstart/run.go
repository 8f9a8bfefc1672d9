package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"hpcimg/mount"
	hpcrun "hpcimg/runtime"
)

// run starts what the image is for. Where this host does not let it, the files
// that were shown before have to do, and the reason is told.
func (s *story) run(ctx context.Context) error {
	report, err := mount.Probe(ctx)
	if err != nil {
		return err
	}
	if check := report.Lookup(mount.CheckRun); !check.OK {
		s.say("not on this host: %s", check.Reason)
		s.say("what would help: %s", check.Remedy)
		s.say("so here are the files again, through fs.FS:")
		return s.show()
	}
	argv, env, err := s.command()
	if err != nil {
		return err
	}
	primary, err := s.file.Primary()
	if err != nil {
		return err
	}
	plan, err := hpcrun.Compile(ctx, &hpcrun.Spec{
		Image: hpcrun.Image{Path: s.sifPath(), Offset: primary.Offset, Size: primary.Size},
		Args:  argv,
		Env:   env,
	})
	if err != nil {
		return err
	}
	s.say("the image is reached by backend %q; hpcimg exec --dry-run prints such a plan, call by call", plan.Backend())
	out, err := output(ctx, plan)
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		s.say("it says: %s", strings.TrimSuffix(line, "\n"))
	}
	if !strings.Contains(out, "hello from the image") {
		return errors.New("the program in the image did not say what it should")
	}
	return nil
}

// output runs a plan and returns what its command writes.
func output(ctx context.Context, plan *hpcrun.Plan) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	process, err := plan.Start(ctx, &hpcrun.StartOptions{Stdout: w, Stderr: os.Stderr})
	if err := errors.Join(err, w.Close()); err != nil {
		return "", err
	}
	text, readErr := io.ReadAll(r)
	state, err := process.Wait()
	if err := errors.Join(readErr, err); err != nil {
		return "", err
	}
	if !state.Success() {
		return "", fmt.Errorf("the program ended with %v", state)
	}
	return string(text), nil
}

// command is what the configuration inside the SIF says to run.
func (s *story) command() (argv, env []string, err error) {
	config, err := s.file.OCIConfig()
	if err != nil {
		return nil, nil, err
	}
	argv, err = hpcrun.Command(*config, nil)
	env = hpcrun.Environment(hpcrun.EnvInput{Host: os.Environ(), Clean: true, Image: config.Env})
	return argv, env, err
}
