package images

import (
	"archive/tar"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// debootstrap fills the root file system from the mirror and writes it as a layer.
func (p *pot) debootstrap(ctx context.Context, out string) error {
	args := []string{"--variant=minbase"}
	if len(p.mirror.components) > 0 {
		args = append(args, "--components="+strings.Join(p.mirror.components, ","))
	}
	if p.mirror.keyring != "" {
		args = append(args, "--keyring="+p.mirror.keyring)
	}
	program, err := exec.LookPath("debootstrap")
	if err != nil {
		program = "/usr/sbin/debootstrap" // which is not on everybody's PATH
	}
	cmd := exec.CommandContext(ctx, program, append(args, p.mirror.suite, p.rootfs, p.mirror.uri)...)
	if err := p.tool(ctx, cmd); err != nil {
		return err
	}
	if err := p.inside(ctx, cleanUp); err != nil {
		return err
	}
	d := differ{rootfs: p.rootfs}
	return writeLayer(out, func(tw *tar.Writer) error { return d.write(ctx, tw) })
}

// run runs a script in the root file system and writes what it has changed as a layer.
func (p *pot) run(ctx context.Context, script, out string) error {
	before, err := snapshot(ctx, p.rootfs)
	if err != nil {
		return err
	}
	if err := p.inside(ctx, script); err != nil {
		return err
	}
	d := differ{rootfs: p.rootfs, before: before}
	return writeLayer(out, func(tw *tar.Writer) error { return d.write(ctx, tw) })
}

// inside runs a script in the root file system, whose /proc is mounted as long as the script runs.
func (p *pot) inside(ctx context.Context, script string) error {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", "mount -t proc proc /proc && "+script)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root"}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot: p.rootfs,
		// Whatever the script starts ends with it, and so do its mounts.
		Cloneflags: syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS,
	}
	return p.tool(ctx, cmd)
}

// extract fills the root file system from a layer.
func (p *pot) extract(ctx context.Context, layer string) error {
	if err := os.Mkdir(p.rootfs, 0o755); err != nil {
		return err
	}
	return p.tool(ctx, exec.CommandContext(ctx, "tar", "-xzpf", layer, "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", p.rootfs))
}

// tool runs cmd and says how it ended if it did not end well.
func (p *pot) tool(ctx context.Context, cmd *exec.Cmd) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: %s needs root", ErrInstall, cmd.Args[0])
	}
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("%w: %s: %w\n%s", ErrInstall, cmd.Args[0], err, strings.Join(lines[max(0, len(lines)-10):], "\n"))
	}
	return nil
}
