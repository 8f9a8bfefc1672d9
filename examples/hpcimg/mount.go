package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"hpcimg/mount"
)

type mountFlags struct {
	backend    string
	noCheck    bool
	allowOther bool
	foreground bool
}

func newMount(f *flags) *cobra.Command {
	var m mountFlags
	c := &cobra.Command{
		Use:   "mount IMAGE DIR",
		Short: "Mount an image read-only on a directory",
		Long: "Mount an image read-only on a directory: for root through a loop device and the kernel, which sees an image only\n" +
			"after its tables have been checked; for everybody else, and for images that are found wanting, by a FUSE server\n" +
			"of its own, in the background. The mount stays until hpcimg umount DIR, or umount(8).",
		Args: cobra.ExactArgs(2),
	}
	c.Flags().StringVar(&m.backend, "backend", "auto", "auto, kernel, fuse or squashfuse")
	c.Flags().BoolVar(&m.noCheck, "no-check", false, "let the kernel mount an image that has not been checked")
	c.Flags().BoolVar(&m.allowOther, "allow-other", false, "let other users enter an ordinary user's mount")
	c.Flags().BoolVar(&m.foreground, "foreground", false, "serve in the foreground, until the image is unmounted")
	f.addPolicy(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		switch m.backend {
		case "auto", "kernel", "fuse", "squashfuse":
		default:
			return usagef("--backend %s: auto, kernel, fuse or squashfuse", m.backend)
		}
		if !m.foreground {
			return f.mountInBackground(cmd.Context(), &m, args)
		}
		return f.mountImage(cmd.Context(), &m, args)
	}
	return c
}

// maxComplaints is how many damaged blocks a server speaks of.
const maxComplaints = 100

// mountImage mounts and, if the server is in this process, serves.
func (f *flags) mountImage(ctx context.Context, m *mountFlags, args []string) error {
	l, err := openLocal(args[0])
	if err != nil {
		return err
	}
	defer l.Close()
	if l.reader == nil {
		return fmt.Errorf("%s: a directory: bind it instead", l.path)
	}
	o := &mount.ImageOptions{Backend: mount.Backend(m.backend), NoCheck: m.noCheck}
	o.Offset, o.Size, o.AllowOther = l.offset, l.size, m.allowOther
	if m.backend == "auto" {
		o.Backend = ""
	}
	o.Serve = &mount.ServeOptions{OnError: f.complain(l, maxComplaints)}
	if o.Admit, err = f.admit(l); err != nil {
		return err
	}
	// What has been opened and looked at is what is mounted.
	mounted, err := mount.ImageFile(ctx, l.file, args[1], o)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w (an ordinary user can look into the image with hpcimg ls, cat, extract and exec)", err)
	}
	if err != nil {
		return err
	}
	if f.quiet {
		fmt.Fprintln(f.std.out)
	} else {
		fmt.Fprintf(f.std.out, "%s: mounted by %s: %s\n", args[1], mounted.Backend, printable(mounted.Why))
	}
	if mounted.Server == nil {
		return nil
	}
	if ready, ok := f.std.out.(io.Closer); ok {
		_ = ready.Close() // tells the one who waits
	}
	_ = os.Chdir("/") // somebody may want to remove, or unmount, where we are
	defer context.AfterFunc(ctx, func() { _ = mounted.Server.Close() })()
	return mounted.Server.Wait()
}

// mountInBackground has mountImage run in a process of its own, which stays if it is the server, and waits until the image is
// mounted, which it says in a line of output. What it has to say up to then comes out here.
func (f *flags) mountInBackground(ctx context.Context, m *mountFlags, args []string) error {
	command := []string{os.Args[0], "mount", "--foreground", "--backend=" + m.backend}
	if m.noCheck {
		command = append(command, "--no-check")
	}
	if m.allowOther {
		command = append(command, "--allow-other")
	}
	if f.quiet {
		command = append(command, "--quiet")
	}
	if f.policy != "" {
		command = append(command, "--policy="+f.policy)
	}
	messages, err := os.CreateTemp("", "hpcimg-mount-")
	if err != nil {
		return err
	}
	defer messages.Close()
	if err := os.Remove(messages.Name()); err != nil {
		return err
	}
	child := exec.Cmd{
		Path: "/proc/self/exe", Args: append(append(command, "--"), args...), Env: f.std.env, Stderr: messages,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	ready, err := child.StdoutPipe()
	if err != nil {
		return err
	}
	if err := child.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = child.Process.Signal(syscall.SIGTERM) })
	said, err := io.ReadAll(io.LimitReader(ready, 64<<10))
	stop()
	if err == nil && len(said) > 0 { // it serves, or is done
		if !f.quiet {
			_, err = f.std.err.Write(said)
		}
		return errors.Join(err, child.Process.Release())
	}
	err = child.Wait()
	text, readErr := io.ReadAll(io.NewSectionReader(messages, 0, 64<<10))
	_, _ = f.std.err.Write(text)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return &exitError{code: max(exit.ExitCode(), exitFailure)}
	}
	return errors.Join(err, readErr)
}

func newUmount(*flags) *cobra.Command {
	return &cobra.Command{
		Use:     "umount DIR",
		Aliases: []string{"unmount"},
		Short:   "Remove a mount",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			err := mount.Unmount(followed(args[0]))
			if errors.Is(err, syscall.EINVAL) {
				return fmt.Errorf("%w (nothing is mounted there)", err)
			}
			return err
		},
	}
}

// followed is where dir leads to if it is a symbolic link. What it leads to may be a mount whose server is dead: that is not looked at.
func followed(dir string) string {
	for range 40 { // as the kernel does
		link, err := os.Readlink(dir)
		if err != nil {
			break
		}
		if !filepath.IsAbs(link) {
			link = filepath.Dir(dir) + "/" + link // not Join: the directory may be a link too
		}
		dir = link
	}
	return dir
}

func newProbe(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "probe",
		Short: "Tell what this host allows, and why not",
		Args:  cobra.NoArgs,
	}
	f.addJSON(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		report, err := mount.Probe(cmd.Context())
		if err != nil {
			return err
		}
		if f.json {
			return printJSON(cmd.OutOrStdout(), report)
		}
		_, err = fmt.Fprint(cmd.OutOrStdout(), report)
		return err
	}
	return c
}
