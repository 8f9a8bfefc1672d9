package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"hpcimg/internal/fork"
)

// join returns nothing if it takes a plan to join, or if there is something that only one who makes it can explain.
func (s *Session) join(ctx context.Context, spec *Spec, o *StartOptions) (*Process, error) {
	executor, err := executors(o.Executor)
	if err != nil || !spec.Shared || !s.open.begin() {
		return nil, nil
	}
	defer func() { _ = s.open.letGo() }()
	p, err := compileGuest(ctx, spec)
	if err != nil {
		return nil, nil
	}
	defer p.Close()
	alias := s.alias(p)
	within, cancel := context.WithTimeoutCause(ctx, s.patience, errLeader)
	defer cancel()
	m, err := s.ask(within, alias+aliasSuffix, alias, p.private)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case within.Err() != nil:
		return nil, s.fail(alias+aliasSuffix, errLeader)
	case err != nil:
		return nil, nil
	}
	proc, err := p.startGuest(ctx, o, executor, m)
	if e, ok := errors.AsType[*SetupError](err); ok && !e.Exec {
		return nil, nil
	}
	return proc, err
}

// compileGuest makes of a specification what guests need: calls, and the open file of an image that is in one. The error is
// that of Compile, or says that it takes a plan.
func compileGuest(ctx context.Context, spec *Spec) (_ *Plan, err error) {
	h, err := inspect()
	if err != nil {
		return nil, err
	}
	c := &compiler{ctx: ctx, spec: *spec, host: h, plan: newPlan()}
	if err := c.check(); err != nil {
		return nil, err
	}
	f, info, err := c.openFile()
	if err != nil {
		return nil, err
	}
	if c.plan.partial = spec; info.IsDir() {
		f.Close()
	} else if c.plan.file, err = f, c.locate(info); err != nil {
		c.plan.Close()
		return nil, err
	}
	if c.plan.likeness = c.likeness(); c.plan.likeness == nil {
		c.plan.Close()
		return nil, errors.ErrUnsupported
	}
	c.guestHome()
	c.guest()
	return c.plan, nil
}

// complete makes the whole plan of that of a guest, from the file that this has open, whatever has its name by now.
func (p *Plan) complete(ctx context.Context) (*Plan, error) {
	h, err := inspect()
	if err != nil {
		return nil, err
	}
	c := &compiler{ctx: ctx, spec: *p.partial, host: h, plan: newPlan()}
	if p.file != nil {
		fd, err := unix.FcntlInt(p.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, os.NewSyscallError("fcntl", err)
		}
		c.opened = os.NewFile(uintptr(fd), p.file.Name())
	}
	return c.compile()
}

// likeness is all that Compile makes the mounts of: who has the same gets the same. It is nil where that would take as long
// as to compile. What a directory contains that is the image is not part of it: a guest gets it as its leader has found it.
func (c *compiler) likeness() []byte {
	s := c.spec
	if s.Overlay.Dir != "" || len(s.Overlay.Layers) > 0 || s.Identity == IdentityRootRange {
		return nil
	}
	// Of the rest, nothing is left out but what is a command's own. So a field that is new is part of it.
	user, home := s.User, s.Home.Source
	s.Args, s.Env, s.Dir, s.User = nil, nil, "", nil
	s.AllowNewPrivileges, s.Seccomp, s.Limits, s.Umask = false, nil, nil, nil
	s.Image.Path, s.Image.Admit, s.Image.OnError, s.AdmitOthers, s.Logger = "", nil, nil, nil, nil
	s.Injections = slices.Clone(s.Injections)
	files := []string{"/tmp", "/var/tmp", "/etc/resolv.conf", "/etc/hosts", "/etc/localtime", "/etc/passwd", "/etc/group"}
	for i := range s.Injections {
		s.Injections[i].Env, s.Injections[i].Notes = nil, nil
		for _, lib := range s.Injections[i].Libraries {
			files = append(files, lib.Source)
		}
	}
	for _, b := range s.binds() {
		if b.ImageDir != "" {
			return nil
		}
		name, err := filepath.Abs(b.Source)
		if err != nil {
			return nil
		}
		files = append(files, name)
	}
	switch {
	case s.Omit.Home:
	case home != "":
		files = append(files, home)
	case user != nil:
		files = append(files, user.Home)
	default:
		files = append(files, hostUser(c.host.uid, c.host.gid).Home)
	}
	if s.HostDir != "" {
		files = append(files, s.HostDir)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%#v %d %d %v %t %t\n", s, c.host.uid, c.host.gid, c.host.groups, c.host.admin, c.host.initial)
	if user != nil {
		fmt.Fprintf(&b, "%#v\n", *user)
	}
	if st, ok := c.plan.identity.info.Sys().(*syscall.Stat_t); ok {
		fmt.Fprintln(&b, st.Dev, st.Ino, st.Mode&unix.S_IFMT)
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			fmt.Fprintln(&b, st.Size, st.Mtim.Nano())
		}
	}
	for _, name := range files {
		writeIdentity(&b, name)
	}
	return b.Bytes()
}

// writeIdentity writes which file of the host a name leads to, and for the small ones of /etc whether it is as it was.
func writeIdentity(b *bytes.Buffer, name string) {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		fmt.Fprintf(b, "%q %v\n", name, err)
		return
	}
	fmt.Fprintf(b, "%q %d %d %#o\n", name, st.Dev, st.Ino, st.Mode&unix.S_IFMT)
	if filepath.Dir(name) == "/etc" && st.Mode&unix.S_IFMT == unix.S_IFREG {
		fmt.Fprintln(b, st.Size, st.Mtim.Nano())
	}
}

// guestHome is where the home directory is, without a look at the image.
func (c *compiler) guestHome() {
	if c.spec.Omit.Home {
		return
	}
	c.user = c.userLine()
	home := c.spec.Home
	if home.Target == "" || home.Target == "/" {
		return
	}
	if c.spec.Contain == ContainNone || c.homeGiven {
		if _, err := os.Stat(home.Source); err != nil {
			return
		}
	}
	c.home = home.Target
}

// startDirs are the directories that a command starts in whose specification names none, the first that is there.
func (c *compiler) startDirs() []string {
	return slices.DeleteFunc([]string{c.spec.HostDir, c.home}, func(dir string) bool { return dir == "" })
}

// guest writes what those do who join. It looks at nothing in the image: where a guest has no plan, it has none of that.
func (c *compiler) guest() {
	e := &emitter{compiler: c}
	e.add(fork.PDeathSig(), fork.ParentAlive(), fork.NoDump())
	if e.userNS() {
		e.add(fork.Setns("nsuser", unix.CLONE_NEWUSER))
	}
	e.add(fork.Setns("nsmnt", unix.CLONE_NEWNS)) // and / is the working directory
	switch dirs := c.startDirs(); {
	case c.spec.Dir != "":
		e.cwd = c.spec.Dir
		e.changeDir()
	case len(dirs) > 0:
		const flags = unix.O_PATH | unix.O_DIRECTORY
		e.add(fork.Open(fork.CWD, "/", flags, 0, "root"), fork.Open(fork.CWD, "/", flags, 0, "cwd"))
		for _, dir := range slices.Backward(dirs) {
			e.add(fork.OpenIn("root", dir, "cwd").Lax())
		}
		e.add(fork.Fchdir("cwd").About(dirs[0]).Lax())
	}
	e.execute(candidates(e.spec.Args[0], e.spec.Env))
	c.plan.joined, c.plan.private = e.calls, e.userNS()
}
