package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"hpcimg/internal/fork"
)

const helperName = "fusermount3"

// helper has fusermount3 mount a file system that nobody serves. For root that happens in a mount namespace of a child; an
// ordinary user cannot have one in which the program is set-uid, so for them it is a new directory, and is unmounted at once.
func (p *prober) helper() error {
	program, err := exec.LookPath(helperName)
	if err != nil {
		return err
	}
	if err := p.ctx.Err(); err != nil {
		return err
	}
	if p.root {
		return p.helperInChild(program)
	}
	dir, err := os.MkdirTemp("", "hpcimg-mount-")
	if err != nil {
		return err
	}
	dev, own, err := helperMount(p.ctx, "hpcimg", dir, &FuseOptions{Helper: program})
	if err == nil {
		err = errors.Join(dev.Close(), own.unmount(), own.ended())
	}
	return errors.Join(err, os.Remove(dir))
}

func (p *prober) helperInChild(program string) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), helperName), os.NewFile(uintptr(pair[1]), helperName)
	defer ours.Close()
	defer theirs.Close()
	said, says, err := os.Pipe()
	if err != nil {
		return err
	}
	defer said.Close()
	defer says.Close()
	const comm = 3
	calls := []fork.Call{
		fork.Unshare(unix.CLONE_NEWNS),
		fork.Mount(fork.At(""), fork.At("/"), "", unix.MS_REC|unix.MS_SLAVE),
		fork.Keep("socket", "comm"), fork.Keep("pipe", "err"),
		fork.Dup("comm", comm), fork.Dup("err", 1), fork.Dup("err", 2),
		fork.RestoreNoFile(),
	}
	calls = append(calls, fork.Exec([]string{program}, []string{helperName, "-o", "ro,nosuid,nodev", "--", "/tmp"}, []string{fmt.Sprintf("_FUSE_COMMFD=%d", comm)})...)
	err = fork.Try(p.ctx, calls, &fork.Options{Files: map[fork.FD]*os.File{"socket": theirs, "pipe": says}})
	if err != nil {
		return err
	}
	_, _ = theirs.Close(), says.Close()
	fork.Barrier() // no other child has them any more
	dev, err := receiveFile(pair[0])
	if err == nil {
		return dev.Close()
	}
	if text, _ := io.ReadAll(io.LimitReader(said, 4096)); len(text) > 0 {
		err = errors.New(string(bytes.TrimSpace(text)))
	}
	return err
}

// helperRemedy looks for what keeps fusermount3 from being root.
func (p *prober) helperRemedy(err error) string {
	if err == nil {
		return ""
	}
	program, lookErr := exec.LookPath(helperName)
	if lookErr != nil {
		return "install the package fuse3; hpcimg mount of ordinary users needs it, running images does not"
	}
	if p.root {
		return "root mounts without it"
	}
	if on, prErr := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); prErr == nil && on == 1 {
		return "this process runs with no_new_privs, as in a container: set-uid programs have no effect there, mount outside"
	}
	if info, statErr := os.Stat(program); statErr == nil && info.Mode()&fs.ModeSetuid == 0 {
		return "an administrator has to make it set-uid root: chmod u+s " + program
	}
	var st unix.Statfs_t
	if unix.Statfs(program, &st) == nil && st.Flags&unix.ST_NOSUID != 0 {
		return program + " is on a file system that is mounted nosuid, where set-uid programs have no effect"
	}
	if accessErr := unix.Access(fuseDevice, unix.R_OK|unix.W_OK); accessErr != nil {
		return fuseRemedy(accessErr)
	}
	if strings.Contains(err.Error(), "username") {
		return fmt.Sprintf("user %d has no entry in the passwd database, which fusermount3 asks for", os.Getuid())
	}
	if strings.Contains(err.Error(), "mount_max") || strings.Contains(err.Error(), "too many") {
		return "unmount something, or have an administrator raise mount_max in /etc/fuse.conf"
	}
	return "it has no effect in a user namespace or a container; hpcimg exec needs no mount of this kind"
}

// tryMemfd executes a program from memory, as package runtime does.
func tryMemfd(ctx context.Context) error {
	err := fork.Try(ctx, []fork.Call{fork.Exit()}, &fork.Options{Executor: fork.ExecutorMemfd})
	if e, ok := errors.AsType[*os.SyscallError](err); ok {
		return e // without what package fork says of itself
	}
	return err
}

// memfdRemedy says who forbids it.
func memfdRemedy() string {
	const instead = "a plain fork is used instead, which takes longer the more memory the caller has; "
	if sysctl("vm/memfd_noexec") == "2" {
		return instead + "vm.memfd_noexec=1 allows it: an administrator can set that"
	}
	if list, err := os.ReadFile("/sys/kernel/security/lsm"); err == nil && len(list) > 0 {
		return instead + "a security module may forbid it (here: " + strings.TrimSpace(string(list)) + "), fapolicyd or IMA"
	}
	return instead + "a security module, fapolicyd or IMA may forbid it"
}

func sysctl(name string) string {
	value, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(value))
}
