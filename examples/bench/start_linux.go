package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	hpcrun "hpcimg/runtime"
)

// starter is a way to run true in the image.
type starter struct {
	name string
	user bool
	argv []string
	// hold is started before and ended after all rounds.
	hold []string
}

// starters are the contenders that can run here, with the same mounts where they can be told.
func (o *startFlags) starters(stderr io.Writer, temp string) ([]starter, error) {
	var all []starter
	add := func(name string, user bool, argv ...string) {
		if os.Geteuid() != 0 && !user {
			return
		}
		all = append(all, starter{name: name, user: user, argv: argv})
	}
	if o.dir != "" {
		if p := lookUp(stderr, "bwrap"); p != "" {
			add("bwrap, directory", true, slices.Concat([]string{p}, bwrapArgs(o.dir), []string{"true"})...)
		}
		add("hpcimg, directory", true, o.hpcimg, "exec", o.dir, "true")
		all = append(all, starter{
			name: "hpcimg, directory, joining a session", user: true, argv: []string{o.hpcimg, "exec", "--session", "bench", o.dir, "true"},
			hold: []string{o.hpcimg, "exec", "--session", "bench", o.dir, "sleep", "1000"},
		})
		if o.launch != "" {
			add("launch, directory", true, o.launch, o.dir, "true")
		}
		if p := lookUp(stderr, "ch-run"); p != "" {
			add("ch-run, directory", true, p, o.dir, "--", "true")
		}
		if p := lookUp(stderr, "crun"); p != "" {
			bundle := filepath.Join(temp, "bundle")
			if err := writeBundle(bundle, o.dir, o.uid); err != nil {
				return nil, err
			}
			add("crun, directory", true, p, "--root", filepath.Join(temp, "crun"), "--cgroup-manager=disabled", "run", "-b", bundle, "bench")
		}
	}
	if o.sqfs != "" {
		if p := lookUp(stderr, "ch-run"); p != "" {
			add("ch-run, squashfs", true, p, o.sqfs, "--", "true")
		}
	}
	if o.sif != "" {
		add("hpcimg, SIF by FUSE", true, o.hpcimg, "exec", "--backend", "fuse", o.sif, "true")
		all = append(all, starter{
			name: "hpcimg, SIF by FUSE, joining a session", user: true, argv: []string{o.hpcimg, "exec", "--backend", "fuse", "--session", "bench", o.sif, "true"},
			hold: []string{o.hpcimg, "exec", "--backend", "fuse", "--session", "bench", o.sif, "sleep", "1000"},
		})
		if o.launch != "" {
			add("launch, SIF by FUSE", true, o.launch, "-backend", "fuse", o.sif, "true")
			all = append(all, starter{
				name: "launch, SIF by FUSE, joining a session", user: true, argv: []string{o.launch, "-backend", "fuse", "-session", "bench", o.sif, "true"},
				hold: []string{o.launch, "-backend", "fuse", "-session", "bench", o.sif, "sleep", "1000"},
			})
		}
		add("hpcimg, SIF by loop, checked", false, o.hpcimg, "exec", "--backend", "kernel", o.sif, "true")
		add("hpcimg, SIF by loop, trusted", false, o.hpcimg, "exec", "--backend", "kernel", "--trust", o.sif, "true")
		if o.launch != "" {
			add("launch, SIF by loop, trusted", false, o.launch, "-backend", "kernel", "-trust", o.sif, "true")
		}
	}
	if o.sqfs != "" {
		// What of it is the kernel's, and a few small programs'. The mount goes with its namespace.
		const script = `mount -t squashfs -o loop,ro "$0" "$1" && exec chroot "$1" true`
		add("mount and chroot, squashfs by loop", false, "unshare", "-m", "sh", "-c", script, o.sqfs, filepath.Join(temp, "mnt"))
	}
	add("true, on the host", true, "/bin/true")
	add("hpcimg help, which starts nothing", true, o.hpcimg, "help")
	return slices.DeleteFunc(all, func(s starter) bool {
		return !o.only.MatchString(s.name)
	}), nil
}

// etcFiles are the files of the host that the image has a place for: others can make none.
func etcFiles(root string) []string {
	return slices.DeleteFunc([]string{"/etc/resolv.conf", "/etc/hosts", "/etc/passwd", "/etc/group"}, func(name string) bool {
		_, err := os.Lstat(filepath.Join(root, name))
		return err != nil
	})
}

// bwrapArgs mount what hpcimg exec mounts without flags.
func bwrapArgs(root string) []string {
	args := []string{"--die-with-parent", "--unshare-user", "--ro-bind", root, "/", "--bind", "/proc", "/proc", "--bind", "/sys", "/sys", "--dev-bind", "/dev", "/dev"}
	for _, dir := range []string{"/tmp", "/var/tmp"} {
		args = append(args, "--bind", dir, dir)
	}
	for _, file := range etcFiles(root) {
		args = append(args, "--ro-bind", file, file)
	}
	return append(args, "--chdir", "/")
}

// writeBundle writes a bundle with the same mounts.
func writeBundle(dir, root string, uid int) error {
	type mapping struct {
		ContainerID int `json:"containerID"`
		HostID      int `json:"hostID"`
		Size        int `json:"size"`
	}
	type mount struct {
		Destination string   `json:"destination"`
		Type        string   `json:"type"`
		Source      string   `json:"source"`
		Options     []string `json:"options"`
	}
	var mounts []mount
	for _, m := range []string{"/proc", "/sys", "/dev", "/tmp", "/var/tmp"} {
		mounts = append(mounts, mount{m, "bind", m, []string{"rbind"}})
	}
	for _, m := range etcFiles(root) {
		mounts = append(mounts, mount{m, "bind", m, []string{"bind", "ro"}})
	}
	type object = map[string]any
	ids := []mapping{{uid, uid, 1}}
	data, err := json.Marshal(object{
		"ociVersion": "1.0.2",
		"process":    object{"user": object{"uid": uid, "gid": uid}, "args": []string{"true"}, "cwd": "/", "env": []string{"PATH=" + hpcrun.DefaultPath}, "noNewPrivileges": true},
		"root":       object{"path": root, "readonly": true},
		"mounts":     mounts,
		"linux":      object{"namespaces": []object{{"type": "user"}, {"type": "mount"}}, "uidMappings": ids, "gidMappings": ids},
	})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), data, 0o644)
}

func (o *startFlags) command(ctx context.Context, s starter, argv []string, temp string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "USER=bench", "XDG_RUNTIME_DIR=" + filepath.Join(temp, "run")}
	if os.Geteuid() == 0 && s.user {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(o.uid), Gid: uint32(o.uid)}}
	}
	return cmd
}

// measure lets all contenders take turns.
func (o *startFlags) measure(ctx context.Context, stderr io.Writer) ([]*startResult, error) {
	temp, err := os.MkdirTemp("", "bench-start-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp)
	for _, dir := range []string{"run", "crun", "mnt"} {
		name := filepath.Join(temp, dir)
		if err := os.Mkdir(name, 0o700); err != nil {
			return nil, err
		}
		if os.Geteuid() == 0 {
			if err := os.Chown(name, o.uid, o.uid); err != nil {
				return nil, err
			}
		}
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return nil, err
	}
	starters, err := o.starters(stderr, temp)
	if err != nil {
		return nil, err
	}
	results := make([]*startResult, len(starters))
	order := make([]int, len(starters))
	for i, s := range starters {
		results[i], order[i] = &startResult{Name: s.name, User: s.user}, i
		if s.hold == nil {
			continue
		}
		held := o.command(ctx, s, s.hold, temp)
		held.Stderr = stderr
		if err := held.Start(); err != nil {
			return nil, err
		}
		defer func() {
			_ = held.Process.Kill()
			_ = held.Wait()
		}()
		time.Sleep(200 * time.Millisecond)
	}
	const warm = 3
	for round := range o.rounds + warm {
		for _, i := range order {
			cmd := o.command(ctx, starters[i], starters[i].argv, temp)
			var problem bytes.Buffer
			cmd.Stderr = &problem
			if round >= warm {
				cmd.Stderr = nil // no pipe, no goroutine
			}
			begin := time.Now()
			err := cmd.Run()
			took := time.Since(begin)
			if err != nil {
				return nil, fmt.Errorf("%s: %w: %s", starters[i].name, err, problem.String())
			}
			if round >= warm {
				results[i].Runs = append(results[i].Runs, took)
			}
		}
		slices.Reverse(order)
	}
	return results, nil
}

// measureMemory measures starts by the library in processes that use more and more memory, which take turns.
func (o *startFlags) measureMemory(ctx context.Context) ([]*startResult, error) {
	image := o.dir
	if image == "" {
		image = o.sif
	}
	var results []*startResult
	var in []io.Writer
	var out []*bufio.Reader
	for _, size := range o.memory {
		for _, executor := range []hpcrun.Executor{hpcrun.ExecutorMemfd, hpcrun.ExecutorFork} {
			p, err := ours("start", "-memory", strconv.FormatInt(size, 10), "-executor", string(executor), image)
			if err != nil {
				return nil, err
			}
			cmd := o.command(ctx, starter{user: true}, p.argv, "/")
			stdin, err := cmd.StdinPipe()
			if err != nil {
				return nil, err
			}
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				return nil, err
			}
			cmd.Stderr = os.Stderr
			if err := cmd.Start(); err != nil {
				return nil, err
			}
			defer func() {
				stdin.Close()
				_ = cmd.Wait()
			}()
			in, out = append(in, stdin), append(out, bufio.NewReader(stdout))
			results = append(results, &startResult{Name: fmt.Sprintf("%s, caller of %d MiB", executor, size>>20), User: true})
		}
	}
	for range o.rounds {
		for i := range results {
			if _, err := in[i].Write([]byte("\n")); err != nil {
				return nil, err
			}
			var ns int64
			if _, err := fmt.Fscanln(out[i], &ns); err != nil {
				return nil, fmt.Errorf("%s: %w", results[i].Name, err)
			}
			results[i].Runs = append(results[i].Runs, time.Duration(ns))
		}
	}
	return results, nil
}

// childStart uses memory, and starts true whenever it is told to.
func childStart(ctx context.Context, f *flag.FlagSet, args []string, stdout io.Writer) error {
	size := f.Int64("memory", 0, "bytes to use")
	executor := f.String("executor", "", "executor")
	if err := parse(f, args, 1); err != nil {
		return err
	}
	ballast := make([]byte, *size)
	for i := 0; i < len(ballast); i += 4096 {
		ballast[i] = 1
	}
	plan, err := hpcrun.Compile(ctx, &hpcrun.Spec{Image: hpcrun.Image{Path: f.Arg(0)}, Args: []string{"true"}, Env: []string{"PATH=" + hpcrun.DefaultPath}})
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		begin := time.Now()
		p, err := plan.Start(ctx, &hpcrun.StartOptions{Executor: hpcrun.Executor(*executor)})
		if err != nil {
			return err
		}
		if _, err := p.Wait(); err != nil {
			return err
		}
		fmt.Fprintln(stdout, time.Since(begin).Nanoseconds())
	}
	runtime.KeepAlive(ballast)
	return lines.Err()
}
