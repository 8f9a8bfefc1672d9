package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"hpcimg/internal/fork"
)

// prober tries things and remembers what it has learned for the advice.
type prober struct {
	ctx    context.Context
	root   bool
	checks []Check
}

func probe(ctx context.Context) []Check {
	p := &prober{ctx: ctx}
	p.add(CheckRoot, p.tryRoot(), "run as root for kernel mounts; nothing else needs it")
	p.root = p.checks[0].OK
	p.add(CheckUserNS, p.inNamespace(true), "")
	if c := &p.checks[1]; !c.OK {
		c.Remedy = userNSRemedy()
	}
	p.addInside(CheckOverlay, overlayCalls(), func(error) string { return "Linux 5.11 or later mounts overlays for ordinary users" })
	p.add(CheckKernelSquashfs, p.kernelSquashfs(), "images are served through FUSE, or unpacked into memory; the kernel mounts them for root, with the squashfs module")
	p.add(CheckLoop, p.loop(), "images are served through FUSE, or unpacked into memory; loop devices need root and /dev/loop-control")
	p.addInside(CheckFUSE, fuseCalls(), fuseRemedy)
	p.add(CheckOpenat2, tryOpenat2(), "Linux 5.6 or later has it")
	p.addInside(CheckSetAttr, setAttrCalls(), func(error) string { return "older kernels remount each bind instead" })
	p.add(CheckMemfdExec, tryMemfd(p.ctx), memfdRemedy())
	err := p.helper()
	p.add(CheckFusermount, err, p.helperRemedy(err))
	p.squashfuse()
	run := Check{Name: CheckRun, OK: (p.root || p.checks[1].OK) && p.has(CheckOpenat2)}
	if !run.OK {
		run.Reason, run.Remedy = "neither root nor user namespaces, or a kernel before 5.6", p.checks[1].Remedy
	}
	return append([]Check{run}, p.checks...)
}

func (p *prober) has(name string) bool { return (&Report{Checks: p.checks}).Has(name) }

func (p *prober) add(name string, err error, remedy string) {
	if e, ok := errors.AsType[*fork.Error](err); ok {
		err = e.Err // which call it was means nothing to anybody
	}
	c := Check{Name: name, OK: err == nil, Err: err}
	if err != nil {
		c.Reason, c.Remedy = err.Error(), remedy
	}
	p.checks = append(p.checks, c)
}

// addInside tries calls in the namespaces that commands get. Without those, nothing but what is said of them would help.
func (p *prober) addInside(name string, calls []fork.Call, remedy func(error) string) {
	err := p.inNamespace(!p.root, calls...)
	if user := (&Report{Checks: p.checks}).Lookup(CheckUserNS); !p.root && !user.OK {
		p.add(name, err, user.Remedy)
		return
	}
	p.add(name, err, remedy(err))
}

// fuseRemedy says what helps against an error of /dev/fuse.
func fuseRemedy(err error) string {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return "an administrator can load the module: modprobe fuse"
	}
	return "an administrator can make /dev/fuse accessible: chmod 0666 /dev/fuse"
}

// inNamespace tries calls in a mount namespace with a fresh tmpfs on /tmp; user says whether a user namespace is made too.
func (p *prober) inNamespace(user bool, calls ...fork.Call) error {
	return fork.Try(p.ctx, namespaceCalls(user, calls...), nil)
}

func namespaceCalls(user bool, calls ...fork.Call) []fork.Call {
	uid, gid := os.Geteuid(), os.Getegid()
	flags := uintptr(unix.CLONE_NEWNS)
	if user {
		flags |= unix.CLONE_NEWUSER
	}
	table := []fork.Call{fork.Unshare(flags)}
	if user {
		table = append(table, fork.SingleMapping(uid, gid, uid, gid)...)
	}
	table = append(
		table,
		fork.Mount(fork.At(""), fork.At("/"), "", unix.MS_REC|unix.MS_SLAVE),
		fork.Mount(fork.At(""), fork.At("/tmp"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV),
	)
	return append(append(table, calls...), fork.Exit())
}

func overlayCalls() []fork.Call {
	return []fork.Call{
		fork.Mkdir(fork.CWD, "/tmp/a", 0o755), fork.Mkdir(fork.CWD, "/tmp/b", 0o755), fork.Mkdir(fork.CWD, "/tmp/m", 0o755),
		fork.Mount(fork.At(""), fork.At("/tmp/m"), "overlay", unix.MS_RDONLY, fork.At("lowerdir=/tmp/a:/tmp/b")),
	}
}

func setAttrCalls() []fork.Call {
	return []fork.Call{fork.Open(fork.CWD, "/tmp", unix.O_PATH, 0, "tmp"), fork.SetAttr("tmp", unix.MOUNT_ATTR_RDONLY, true)}
}

// fuseCalls mount a file system that nobody serves; it goes with the child.
func fuseCalls() []fork.Call {
	return []fork.Call{
		fork.Open(fork.CWD, fuseDevice, unix.O_RDWR, 0, "fuse"),
		fork.Mkdir(fork.CWD, "/tmp/m", 0o755),
		fork.Mount(
			fork.At(""), fork.At("/tmp/m"), "fuse", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV,
			fork.At("rootmode=40000,fd="), fork.Number("fuse"),
			fork.At(fmt.Sprintf(",user_id=%d,group_id=%d", os.Geteuid(), os.Getegid())),
		),
	}
}

func (p *prober) tryRoot() error {
	return p.inNamespace(false)
}

// kernelSquashfs asks for a file system context, which loads the module where that is allowed.
func (p *prober) kernelSquashfs() error {
	if !p.root {
		return errors.New("only root may mount block file systems")
	}
	err := fork.Try(p.ctx, []fork.Call{fork.FSOpen("squashfs", "fs"), fork.Exit()}, nil)
	if !errors.Is(err, unix.ENOSYS) {
		return err
	}
	types, err := os.ReadFile("/proc/filesystems")
	if err == nil && !bytes.Contains(types, []byte("\tsquashfs\n")) {
		err = unix.ENODEV
	}
	return err
}

func (p *prober) loop() error {
	f, err := os.OpenFile(loopControl, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

func tryOpenat2() error {
	fd, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err == nil {
		err = unix.Close(fd)
	}
	return os.NewSyscallError("openat2", err)
}

// userNSRemedy looks for the switches by which distributions forbid user namespaces.
func userNSRemedy() string {
	for _, s := range []struct{ file, bad, remedy string }{
		{
			"kernel/apparmor_restrict_unprivileged_userns", "1",
			"AppArmor restricts user namespaces: install a profile with \"userns,\" for the path of this program, or set kernel.apparmor_restrict_unprivileged_userns=0",
		},
		{"kernel/unprivileged_userns_clone", "0", "set kernel.unprivileged_userns_clone=1"},
		{"user/max_user_namespaces", "0", "set user.max_user_namespaces to a number such as 65536"},
		{"user/max_mnt_namespaces", "0", "set user.max_mnt_namespaces to a number such as 65536"},
	} {
		if sysctl(s.file) == s.bad {
			return s.remedy
		}
	}
	return "a security module, a seccomp filter or a chroot forbids them: ask the administrator of this host"
}
