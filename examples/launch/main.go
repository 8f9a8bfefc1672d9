// This process starts one command and waits for it: how many processors a control
// group leaves it is not worth looking for, which takes longer than Compile.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	hpcrun "hpcimg/runtime"
	"hpcimg/sif"
)

func main() {
	code, err := launch(context.Background(), os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "launch:", err)
	}
	os.Exit(code)
}

func launch(ctx context.Context, args []string) (code int, err error) {
	f := flag.NewFlagSet("launch", flag.ContinueOnError)
	backend := f.String("backend", "", "directory, kernel, fuse or extract; the best that works if empty")
	tag := f.String("session", "", "share mounts with commands of the same tag")
	trust := f.Bool("trust", false, "give the image to the kernel unchecked (root)")
	if err := f.Parse(args); err != nil || f.NArg() < 2 {
		return 2, errors.Join(err, errors.New("usage: launch [-backend NAME] [-session TAG] [-trust] IMAGE COMMAND [ARG...]"))
	}
	spec := &hpcrun.Spec{Args: f.Args()[1:], Shared: *tag != ""}
	o := &hpcrun.StartOptions{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	if spec.Image, spec.Env, err = locate(f.Arg(0)); err != nil {
		return hpcrun.ExitSetup, err
	}
	spec.Image.Backend, spec.Image.Trusted = hpcrun.Backend(*backend), *trust
	spec.Home.Source = os.Getenv("HOME")
	if info, err := os.Stat(spec.Home.Source); err != nil || !info.IsDir() || !filepath.IsAbs(spec.Home.Source) {
		spec.Home, spec.Omit.Home = hpcrun.Home{}, true // services have none
	}
	if *tag != "" {
		if o.Session, err = hpcrun.OpenSession(fmt.Sprintf("/dev/shm/hpcimg-%d", os.Geteuid()), *tag); err != nil {
			return hpcrun.ExitSetup, err
		}
		defer o.Session.Close()
	}
	process, err := hpcrun.Start(ctx, spec, o)
	if err != nil {
		return hpcrun.ExitCode(err), err
	}
	state, err := process.Wait()
	if err != nil {
		return hpcrun.ExitSetup, err
	}
	if o.Session != nil {
		err = o.Session.Wait(ctx) // others may depend on what this process serves
	}
	return state.ExitCode(), err
}

// locate finds the file system in an image, and makes the environment that the image asks for.
func locate(path string) (hpcrun.Image, []string, error) {
	image := hpcrun.Image{Path: path}
	env := hpcrun.EnvInput{Host: os.Environ(), ImagePath: path}
	file, err := sif.Open(path)
	switch {
	case err == nil:
		defer file.Close()
		partition, err := file.Primary()
		if err != nil {
			return image, nil, err
		}
		image.Offset, image.Size = partition.Offset, partition.Size
		if config, err := file.OCIConfig(); err == nil {
			env.Image = config.Env
		}
	case !errors.Is(err, sif.ErrFormat):
		if info, statErr := os.Stat(path); statErr != nil || !info.IsDir() {
			return image, nil, err
		}
	}
	return image, hpcrun.Environment(env), nil
}
