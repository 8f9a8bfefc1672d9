package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	hpcrun "hpcimg/runtime"
	"hpcimg/runtime/gpu"
	"hpcimg/runtime/mpi"
	"hpcimg/sif"
)

// execFlags are the flags of exec, run and shell.
type execFlags struct {
	binds, env []string
	envFile    string
	cleanEnv   bool
	contain    bool
	containAll bool
	noHome     bool
	home, pwd  string
	nv, rocm   bool
	mpi        bool
	fakeroot   bool
	extractDir string
	backend    string
	writable   bool
	overlays   []string
	trust      bool
	session    string
	seccomp    string
	security   []string
	ulimits    []string
	umask      string
	shared     bool // there is a session
	dryRun     bool
}

func newExec(f *flags) *cobra.Command {
	return newExecVerb(f, "exec [flags] IMAGE COMMAND [ARG...]", "Run a command in an image", 2,
		func(_ *localImage, args []string) (argv, set []string, err error) { return args, nil, nil })
}

func newRun(f *flags) *cobra.Command {
	return newExecVerb(f, "run [flags] IMAGE [ARG...]", "Run what an image is for", 1, (*localImage).runCommand)
}

func newShell(f *flags) *cobra.Command {
	return newExecVerb(f, "shell [flags] IMAGE [ARG...]", "Start a shell in an image", 1, (*localImage).shellCommand)
}

// newExecVerb makes a command that runs what command returns, with variables that the caller can set otherwise.
func newExecVerb(f *flags, use, short string, minArgs int, command func(*localImage, []string) (argv, set []string, err error)) *cobra.Command {
	e := &execFlags{}
	c := &cobra.Command{
		Use:   use,
		Short: short,
		Long: short + ": a SIF file, a squashfs image, a directory, or what pull takes, docker://… for one. Of images in layers a SIF file is made in the cache when it is\n" +
			"wanted first; its tag is asked about each time, unless --offline is given.\n\n" +
			"The command is the caller, and sees home, working directory, /tmp and devices of the host. It ends with the command's exit\n" +
			"status; 125 says that the container could not be set up, 126 that the command is not executable, 127 that it is not there.",
		Args: cobra.MinimumNArgs(minArgs),
	}
	e.add(c)
	f.addPolicy(c)
	f.addSource(c)
	c.Flags().SetInterspersed(false)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		l, admitted, err := f.openImage(cmd, args[0])
		if err != nil {
			return setupError(err)
		}
		defer l.Close()
		argv, set, err := command(l, args[1:])
		if err != nil {
			return setupError(fmt.Errorf("%s: %w", l.path, err))
		}
		more, err := f.setVariables(e)
		if err != nil {
			return setupError(err)
		}
		set = append(set, more...)
		session, err := f.openSession(e, cmd.Flags().Changed("session"))
		if err != nil {
			return setupError(err)
		}
		if e.shared = session != nil; e.shared {
			defer session.Close()
		}
		spec, err := f.spec(e, l, argv, set)
		if err != nil {
			return setupError(err)
		}
		spec.Shared = session != nil
		if !admitted {
			if spec.Image.Admit, err = f.admit(l); err != nil {
				return setupError(err)
			}
		}
		spec.AdmitOthers = f.admitOther
		if e.dryRun {
			return dryRun(cmd, spec)
		}
		return f.runSpec(cmd.Context(), l, spec, session)
	}
	return c
}

func (e *execFlags) add(c *cobra.Command) {
	fl := c.Flags()
	fl.StringArrayVarP(&e.binds, "bind", "B", nil, "show a directory or file of the host: SRC[:DST[:ro]], or a part of an image in a file: FILE:DST:image-src=PATH. Separated by commas (may be repeated)")
	fl.StringArrayVar(&e.env, "env", nil, "set a variable: NAME=value (may be repeated)")
	fl.StringVar(&e.envFile, "env-file", "", "set the variables of a file, a NAME=value on each line")
	fl.BoolVarP(&e.cleanEnv, "cleanenv", "e", false, "pass on nothing of the environment but TERM and the settings of proxies")
	fl.BoolVarP(&e.contain, "contain", "c", false, "give it an empty home and /tmp, and few devices")
	fl.BoolVar(&e.containAll, "containall", false, "--contain, --cleanenv, and processes of its own")
	fl.BoolVar(&e.noHome, "no-home", false, "leave out the home directory")
	fl.StringVarP(&e.home, "home", "H", "", "use another home directory: SRC[:DST]")
	fl.StringVar(&e.pwd, "pwd", "", "working directory in the image")
	fl.BoolVar(&e.nv, "nv", false, "add NVIDIA devices and libraries of the host")
	fl.BoolVar(&e.rocm, "rocm", false, "add AMD GPU devices of the host")
	fl.BoolVar(&e.mpi, "mpi", false, "add what the MPI launcher and the network of the host need")
	fl.StringVar(&e.seccomp, "seccomp", "", "filter system calls by the profile in this `file`: JSON as of Docker, Podman and OCI bundles, or a compiled BPF program")
	fl.StringArrayVar(&e.security, "security", nil, "seccomp:FILE is --seccomp FILE, as Apptainer has it")
	fl.StringArrayVar(&e.ulimits, "ulimit", nil, "limit a resource: NAME=SOFT[:HARD], with the names of setrlimit(2) in lower case (may be repeated)")
	fl.StringVar(&e.umask, "umask", "", "file mode creation mask of the command, in octal (default the caller's)")
	fl.StringVar(&e.session, "session", "", "share mounts and user namespace with the commands of the same `tag`; auto is the job step (as with --mpi)")
	fl.BoolVarP(&e.fakeroot, "fakeroot", "f", false, "be root inside")
	fl.StringVar(&e.extractDir, "tmp-dir", "", "unpack the image here instead of into memory, where it cannot be mounted")
	fl.StringVar(&e.backend, "backend", "auto", "how to reach the image: auto, kernel, fuse, squashfuse, extract or directory")
	fl.BoolVar(&e.trust, "trust", false, "give the image to the kernel unchecked (root)")
	fl.BoolVar(&e.writable, "writable-tmpfs", false, "make the image writable in memory: changes go with the command")
	fl.StringArrayVar(&e.overlays, "overlay", nil, "keep changes to the image in a directory: DIR; or lay one over it, DIR:ro, or a squashfs image or SIF file, FILE (may be repeated)")
	fl.BoolVar(&e.dryRun, "dry-run", false, "print the system calls instead of making them")
}

// setupError gives err the exit status of a container that could not be set up.
// Usage errors keep theirs.
func setupError(err error) error {
	if _, ok := errors.AsType[*usageError](err); ok {
		return err
	}
	return &exitError{code: hpcrun.ExitSetup, err: err}
}

// spec makes of flags, environment and image what is to be run: argv, with the variables in set.
func (f *flags) spec(e *execFlags, l *localImage, argv, set []string) (*hpcrun.Spec, error) {
	path, err := filepath.Abs(l.path)
	if err != nil {
		return nil, err
	}
	scripts := l.hasScripts()
	if scripts {
		argv = hpcrun.ActionExec.Command(hpcrun.SetVariables(set, argv))
	}
	if e.pwd != "" && !filepath.IsAbs(e.pwd) {
		return nil, usagef("--pwd %s: the path in the image has to be absolute", e.pwd)
	}
	spec := &hpcrun.Spec{
		Image: hpcrun.Image{Path: path, Offset: l.offset, Size: l.size, ExtractDir: e.extractDir},
		Args:  argv,
		Dir:   e.pwd,
		Omit:  hpcrun.Omit{Home: e.noHome},
	}
	switch {
	case e.containAll:
		spec.Contain = hpcrun.ContainAll
	case e.contain:
		spec.Contain = hpcrun.ContainFiles
	}
	spec.Image.Trusted = e.trust
	if spec.Seccomp, err = f.filter(e); err != nil {
		return nil, err
	}
	if e.fakeroot {
		spec.Identity = hpcrun.IdentityRootRange
	}
	if err := e.setLimits(spec); err != nil {
		return nil, err
	}
	if spec.Overlay, err = e.overlay(); err != nil {
		return nil, err
	}
	if spec.Image.Backend, err = e.backendOf(); err != nil {
		return nil, err
	}
	if spec.HostDir, err = os.Getwd(); err != nil {
		spec.HostDir = ""
	}
	if spec.Binds, err = parseBinds(e.binds); err != nil {
		return nil, err
	}
	hostHome := f.hostHome()
	if err := e.setHome(spec, hostHome); err != nil {
		return nil, err
	}
	if spec.Injections, err = f.injections(e); err != nil {
		return nil, err
	}
	spec.Env = hpcrun.Environment(hpcrun.EnvInput{
		Host: hostEnv(f.std.env), Clean: e.cleanEnv || e.containAll, Image: l.imageEnv(),
		Injections: spec.Injections, Set: set, Scripts: scripts, Home: cmp.Or(spec.Home.Target, spec.Home.Source, hostHome),
		ImagePath: path, ImageName: cmp.Or(l.name, filepath.Base(path)),
	})
	return spec, nil
}

// setLimits is about --ulimit and --umask.
func (e *execFlags) setLimits(spec *hpcrun.Spec) error {
	for _, flag := range e.ulimits {
		l, err := hpcrun.ParseLimit(flag)
		if err != nil {
			return usagef("--ulimit: %w", err)
		}
		spec.Limits = append(spec.Limits, l)
	}
	if e.umask != "" {
		mask, err := strconv.ParseUint(e.umask, 8, 9)
		if err != nil {
			return usagef("--umask %s: not an octal number up to 0777", e.umask)
		}
		spec.Umask = new(fs.FileMode(mask))
	}
	return nil
}

// overlay is what --overlay and --writable-tmpfs ask for.
func (e *execFlags) overlay() (hpcrun.Overlay, error) {
	o := hpcrun.Overlay{Tmpfs: e.writable}
	for _, flag := range e.overlays {
		dir, mode, _ := strings.Cut(flag, ":")
		abs, err := filepath.Abs(dir)
		if err != nil {
			return o, err
		}
		info, err := os.Stat(abs)
		isFile := err == nil && info.Mode().IsRegular()
		switch {
		case dir == "" || mode != "" && mode != "ro" && mode != "rw":
			return o, usagef("--overlay %s: not DIR, DIR:ro or FILE", flag)
		case mode == "ro", mode == "" && isFile:
			o.Layers = append(o.Layers, abs)
		case o.Dir != "" || o.Tmpfs:
			return o, usagef("--overlay %s: changes already go to another place", flag)
		default:
			o.Dir = abs
		}
	}
	return o, nil
}

func (e *execFlags) backendOf() (hpcrun.Backend, error) {
	switch b := hpcrun.Backend(e.backend); b {
	case "auto":
		return hpcrun.BackendAuto, nil
	case hpcrun.BackendKernel, hpcrun.BackendFUSE, hpcrun.BackendSquashfuse, hpcrun.BackendExtract, hpcrun.BackendDirectory:
		return b, nil
	}
	return "", usagef("--backend %s: not one of auto, kernel, fuse, squashfuse, extract and directory", e.backend)
}

func parseBinds(flags []string) ([]hpcrun.Bind, error) {
	var binds []hpcrun.Bind
	for _, flag := range flags {
		for _, s := range splitBinds(flag) {
			b, err := hpcrun.ParseBind(s)
			if err != nil {
				return nil, usagef("--bind: %w", err)
			}
			if b.Target != "" && !filepath.IsAbs(b.Target) {
				return nil, usagef("--bind %s: the path in the image has to be absolute", s)
			}
			if b.Source, err = filepath.Abs(b.Source); err != nil {
				return nil, err
			}
			binds = append(binds, b)
		}
	}
	return binds, nil
}

// splitBinds separates binds by commas, but not their options.
func splitBinds(flag string) []string {
	var binds []string
	for s := range strings.SplitSeq(flag, ",") {
		option := s == "ro" || s == "rw" || strings.HasPrefix(s, "image-src=")
		if last := len(binds) - 1; option && last >= 0 && strings.Count(binds[last], ":") >= 2 {
			binds[last] += "," + s
		} else {
			binds = append(binds, s)
		}
	}
	return binds
}

// hostHome is the home directory of the caller, from the list of users where the environment has none.
func (f *flags) hostHome() string {
	if home := f.std.getenv("HOME"); home != "" {
		return home
	}
	if u, err := user.LookupId(strconv.Itoa(os.Geteuid())); err == nil {
		return u.HomeDir
	}
	return ""
}

func (e *execFlags) setHome(spec *hpcrun.Spec, home string) error {
	if e.home == "" {
		// An account without a home directory, as services have, runs things too.
		if info, err := os.Stat(home); err == nil && info.IsDir() && filepath.IsAbs(home) {
			if spec.Contain == hpcrun.ContainNone {
				spec.Home.Source = home
			}
		} else {
			spec.Omit.Home = true
		}
		return nil
	}
	source, target, _ := strings.Cut(e.home, ":")
	abs, err := filepath.Abs(source)
	if err != nil {
		return err
	}
	if target != "" && !filepath.IsAbs(target) {
		return usagef("--home %s: the path in the image has to be absolute", e.home)
	}
	spec.Home = hpcrun.Home{Source: abs, Target: target}
	return nil
}

// injections are what the GPU and MPI flags ask for. A host without the device
// is worth a warning, not a failure: the same script runs on login nodes.
func (f *flags) injections(e *execFlags) ([]hpcrun.Injection, error) {
	var all []hpcrun.Injection
	for _, driver := range []struct {
		flag   string
		wanted bool
		find   func() (hpcrun.Injection, error)
	}{
		{"--nv", e.nv, func() (hpcrun.Injection, error) { return gpu.NVIDIA(&gpu.NVIDIAOptions{Env: f.std.env}) }},
		{"--rocm", e.rocm, func() (hpcrun.Injection, error) { return gpu.ROCm(&gpu.ROCmOptions{Env: f.std.env}) }},
	} {
		if !driver.wanted {
			continue
		}
		inj, err := driver.find()
		if errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(f.std.err, "hpcimg: warning: %s: no driver on this host: %v\n", driver.flag, err)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", driver.flag, err)
		}
		all = append(all, inj)
	}
	if e.mpi {
		all = append(all, mpi.Launcher(f.std.env, nil), mpi.Fabric(nil))
		if (os.Geteuid() != 0 || e.fakeroot) && !e.shared {
			all = append(all, hpcrun.Injection{Name: "mpi", Env: mpi.PrivateUserNS()})
		}
	}
	return all, nil
}

// setVariables are the variables that flags and prefixed variables of the caller set.
func (f *flags) setVariables(e *execFlags) ([]string, error) {
	set := prefixed(f.std.env)
	if e.envFile != "" {
		lines, err := readEnvFile(e.envFile)
		if err != nil {
			return nil, err
		}
		set = append(set, lines...)
	}
	for _, kv := range e.env {
		if name, _, ok := strings.Cut(kv, "="); !ok || name == "" {
			return nil, usagef("--env %s: not NAME=value", kv)
		}
		set = append(set, kv)
	}
	return set, nil
}

// envPrefixes mark variables that are meant for the container, as Apptainer and
// SingularityCE have them.
var envPrefixes = [...]string{"SINGULARITYENV_", "APPTAINERENV_"}

// prefixed returns the variables that a prefix gives to the container; those
// with Apptainer's prefix come last and so win.
func prefixed(env []string) []string {
	var set []string
	for _, prefix := range envPrefixes {
		for _, kv := range env {
			if rest, ok := strings.CutPrefix(kv, prefix); ok {
				set = append(set, rest)
			}
		}
	}
	return set
}

// hostEnv leaves out the variables that prefixed has taken.
func hostEnv(env []string) []string {
	var host []string
	for _, kv := range env {
		if !strings.HasPrefix(kv, envPrefixes[0]) && !strings.HasPrefix(kv, envPrefixes[1]) {
			host = append(host, kv)
		}
	}
	return host
}

const maxEnvFile = 1 << 20

// readEnvFile reads NAME=value lines; empty lines and those that begin with #
// are passed over. Values are taken as they are: no shell reads them.
func readEnvFile(path string) ([]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var set []string
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, maxEnvFile)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if name, _, ok := strings.Cut(line, "="); !ok || name == "" || strings.ContainsAny(name, " \t") {
			return nil, usagef("%s:%d: not NAME=value (no shell reads this file: neither export nor quotes)", path, n)
		}
		set = append(set, line)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return set, nil
}

// imageEnv returns the variables of the image's OCI configuration.
func (l *localImage) imageEnv() []string {
	config, err := l.ociConfig()
	if err != nil {
		return nil
	}
	return config.Env
}

// hasScripts reports whether the environment of the image is in scripts that
// only a shell can read: it was built from a definition file.
func (l *localImage) hasScripts() bool {
	if _, err := l.ociConfig(); err == nil && !l.attributes().OwnEnvironment() {
		return false
	}
	return l.has(".singularity.d/actions/exec") && l.has("bin/sh")
}

// attributes are what the builder of a SIF has said of its scripts.
func (l *localImage) attributes() *sif.Attributes {
	if l.sif == nil {
		return &sif.Attributes{}
	}
	meta, err := l.sif.Metadata()
	if err != nil {
		return &sif.Attributes{}
	}
	return &meta.Data.Attributes
}

func (l *localImage) has(name string) bool {
	_, err := fs.Stat(l.fsys(), name)
	return err == nil
}

const runscript = ".singularity.d/runscript"

// runCommand is what the image runs by itself: the run script of its definition file before what the OCI image ran that it was made from.
func (l *localImage) runCommand(args []string) (argv, set []string, err error) {
	config, err := l.ociConfig()
	switch {
	case err == nil && !(l.attributes().OwnRunscript() && l.has(runscript)):
		argv, err = hpcrun.Command(*config, args)
		return argv, nil, err
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, nil, err
	case l.has(runscript):
		return append([]string{"/" + runscript}, args...), nil, nil
	}
	return nil, nil, errors.New("the image does not say what to run: use hpcimg exec")
}

// prompt is what a shell in an image asks with.
const prompt = "hpcimg> "

// shellCommand is a shell of the image: bash if it has that, without the files of the user's home directory, which are for the shell of the
// host.
func (l *localImage) shellCommand(args []string) (argv, set []string, err error) {
	argv = []string{"/bin/sh"}
	if l.has("bin/bash") {
		argv = []string{"/bin/bash", "--norc"}
	}
	return append(argv, args...), []string{"SHELL=" + argv[0], "PS1=" + prompt}, nil
}
