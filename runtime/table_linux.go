package runtime

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"hpcimg/internal/fork"
)

// table is the system calls of a plan.
type table struct {
	calls []fork.Call
	clone uintptr // namespaces that the child is made in
	// joined are the calls of those who join a session instead, and common tells whether two plans mount the same; nil unless
	// the plan is Shared. So does likeness, which needs no plan to be known, but can be nil.
	joined   []fork.Call
	common   []byte
	likeness []byte
	private  bool // with a user namespace
	// extracted is the index of the call that opens the directory of ExtractDir, whose name is chosen at the start.
	extracted int
}

func (t *table) write(b *strings.Builder) {
	if t.clone != 0 {
		fmt.Fprintf(b, "     clone(%s|SIGCHLD)\n", fork.Namespaces(t.clone))
	} else {
		b.WriteString("     clone(SIGCHLD)\n")
	}
	for i, c := range t.calls {
		fmt.Fprintf(b, "%4d %v\n", i, c)
	}
	if t.joined != nil {
		b.WriteString("# who joins a session makes these instead:\n")
	}
	for i, c := range t.joined {
		fmt.Fprintf(b, "%4d %v\n", i, c)
	}
}

const imageFlags = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV

// emitter writes the calls of a plan.
type emitter struct {
	*compiler
	calls []fork.Call
	stage string // tmpfs in which the image is put together
}

func (c *compiler) emit() {
	e := &emitter{compiler: c, stage: c.host.staging}
	e.add(fork.PDeathSig(), fork.ParentAlive())
	e.namespaces()
	if e.spec.Shared {
		e.openNamespaces()
	}
	e.add(fork.Mount(fork.At(""), fork.At("/"), "", unix.MS_REC|unix.MS_SLAVE))
	e.sources()
	e.add(
		fork.ClearUmask(),
		fork.Mount(fork.At(""), fork.At(e.stage), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fork.At("mode=0755,size=64m")),
		fork.Mkdir(fork.CWD, e.stage+"/root", 0o755),
	)
	e.rootDir()
	for _, it := range c.items {
		e.item(it)
	}
	e.add(fork.Fchdir("root").About("/"), fork.Pivot().About("/"), fork.Detach("."), fork.Chdir("/"), fork.RestoreUmask())
	if e.spec.Shared {
		e.share()
	}
	e.finish()
	c.plan.calls, c.plan.env = e.calls, append([]string(nil), c.spec.Env...)
}

func (e *emitter) add(calls ...fork.Call) { e.calls = append(e.calls, calls...) }

// namespaces makes the namespaces. Those that a child has to be born into come with the fork; with them the user
// namespace, without which an ordinary user may not make others.
func (e *emitter) namespaces() {
	ns := e.spec.Namespaces
	flags := uintptr(unix.CLONE_NEWNS)
	if e.spec.Contain == ContainAll {
		ns.PID, ns.IPC = true, true
	}
	if ns.IPC {
		flags |= unix.CLONE_NEWIPC
	}
	if ns.Net {
		flags |= unix.CLONE_NEWNET
	}
	if ns.Hostname != "" {
		flags |= unix.CLONE_NEWUTS
	}
	if ns.PID {
		e.plan.clone = unix.CLONE_NEWPID
	}
	if e.userNS() {
		if ns.PID {
			e.plan.clone |= unix.CLONE_NEWUSER
		} else {
			flags |= unix.CLONE_NEWUSER
		}
	}
	if !e.userNS() {
		e.add(fork.Unshare(flags))
		return
	}
	// The user namespace comes first, and owns the others: with its map they can be used.
	if flags&unix.CLONE_NEWUSER != 0 {
		e.add(fork.Unshare(flags))
	}
	e.mapIDs()
	if flags&unix.CLONE_NEWUSER == 0 {
		e.add(fork.Unshare(flags))
	}
}

// sources clones everything of the host that is bound, in the new mount namespace and before anything covers it. The
// clones are mounted nowhere yet; what they restrict is restricted before anybody can see them.
func (e *emitter) sources() {
	if e.plan.backend == BackendDirectory {
		e.add(fork.OpenTree(e.plan.image, true, "image"))
	} else if e.plan.backend == BackendExtract && e.plan.extractDir != "" {
		e.plan.extracted = len(e.calls)
		e.add(fork.OpenTree(e.plan.extractDir+"/"+extractPattern+"/"+extractRoot, true, "image"))
	}
	if e.plan.compares = e.compares(); e.plan.compares {
		e.add(fork.SendFD("sync", "image"), fork.ReadByte("sync"))
	}
	if e.plan.served() {
		e.add(fork.Open(fork.CWD, e.fuseDevice(), unix.O_RDWR, 0, "fuse"))
	}
	if e.plan.backend == BackendSquashfuse {
		e.add(fork.Open(fork.CWD, e.fuseDevice(), unix.O_RDWR, 0, "squashfuse"))
	}
	e.overlaySources()
	for _, it := range e.items {
		if it.kind == itemBind {
			e.add(fork.OpenTree(it.source, it.dir, it.fd))
			if e.host.setAttr && it.attributes() != 0 {
				e.attributes(it.fd, it.attributes(), it.dir, it.source)
			}
		}
	}
}

// rootDir mounts the image at stage/root, and opens it as $root. Mount points that the image lacks are made in a copy of
// it in memory; for one that is mounted they stand in a directory that an overlay shows through it. The image is the upper
// of the two, so that nothing of it is changed or hidden.
func (e *emitter) rootDir() {
	e.serveExtras()
	root, base := e.stage+"/root", e.stage+"/root"
	inMemory := e.inMemory()
	overlay := len(e.root.order) > 0 && e.overlaid() || !e.spec.Overlay.empty()
	if overlay {
		base = e.stage + "/image"
		e.add(fork.Mkdir(fork.CWD, base, 0o755))
	}
	switch {
	case e.plan.backend == BackendFUSE && len(e.plan.extras) > 0:
		e.add(fork.OpenTree(e.servedDir()+"/"+rootName, false, "image"), fork.AttachAt("image", base))
	case e.plan.backend == BackendFUSE:
		e.fuse("fuse", base)
	case e.plan.backend == BackendSquashfuse:
		e.fuse("squashfuse", base)
		if overlay {
			// An overlay takes over what the kernel knows of this directory, which is no more than the mount's options said
			// (mode 0) unless somebody has looked into it.
			e.add(fork.Open(fork.CWD, base+"/.", unix.O_PATH|unix.O_DIRECTORY, 0, "base"), fork.Close("base"))
		}
	case inMemory:
		options := fmt.Sprintf("mode=0755,size=%d,nr_inodes=%d", e.plan.tmpfsSize, e.plan.tmpfsInodes)
		e.add(
			fork.Mount(fork.At(""), fork.At(base), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fork.At(options)),
			fork.Open(fork.CWD, base, unix.O_DIRECTORY, 0, "skeleton"),
			fork.SendFD("sync", "skeleton"),
			fork.ReadByte("sync"),
		)
		e.unpacked()
		// A clone of the mount, since nothing has the clone open for writing. The caller may have the original, or a
		// child that it has just forked: then the original cannot be made read-only.
		e.add(fork.OpenTree(base, false, "image"))
		if e.host.setAttr {
			e.attributes("image", imageFlags, false, "")
		}
		e.add(fork.AttachAt("image", base))
		if !e.host.setAttr {
			e.attributes("image", imageFlags, false, "")
		}
	default:
		e.add(fork.AttachAt("image", base))
	}
	switch {
	case overlay:
		e.overlay(base, root)
		if e.bindsImages() && !e.spec.Overlay.empty() {
			e.cover(e.servedDir())
		}
	case e.plan.backend == BackendFUSE && len(e.plan.extras) == 0:
		e.cover(root)
	}
	e.add(fork.Open(fork.CWD, root, unix.O_PATH|unix.O_DIRECTORY, 0, "root"))
	if !overlay && !inMemory && !e.mounted() {
		e.attributes("root", imageFlags, true, e.plan.image)
	}
}

// mounted says whether the image is a mount of its own, with attributes as they should be.
func (e *emitter) mounted() bool {
	return slices.Contains([]Backend{BackendKernel, BackendFUSE, BackendSquashfuse}, e.plan.backend)
}

func (e *emitter) inMemory() bool {
	return e.plan.backend == BackendExtract && e.plan.extractDir == ""
}

// overlaid says whether mount points that the image lacks go into an overlay: elsewhere they are made in what the image
// becomes.
func (e *emitter) overlaid() bool { return !e.inMemory() && e.plan.backend != BackendFUSE }

// skeleton makes mount points in a directory of ours that is laid beside the image.
func (e *emitter) skeleton() {
	for _, m := range e.root.order {
		e.make(made{m, "skeleton", "/"})
	}
}

// unpacked makes mount points in the image that has just been unpacked. It is not for sure the one that the plan was made for, since the file may have
// been written to since: a symbolic link in the place of a directory must not lead to the host, which is still the root.
func (e *emitter) unpacked() {
	parent := "."
	for _, m := range e.root.order {
		if m.repeated {
			continue
		}
		in := fork.FD("skeleton")
		if dir := path.Dir(m.rel); dir != "." {
			if dir != parent {
				e.add(fork.OpenBeneath(in, dir, unix.O_PATH|unix.O_DIRECTORY, 0, "parent").About("/" + dir))
				parent = dir
			}
			in = "parent"
		}
		at := path.Dir("/" + m.rel)
		m.rel = path.Base(m.rel)
		e.make(made{m, in, at})
	}
}

func (e *emitter) make(m made) {
	name := path.Join(m.at, m.rel)
	if m.kind == nodeDir {
		e.add(fork.Mkdir(m.in, m.rel, 0o755).About(name))
		return
	}
	e.add(fork.Open(m.in, m.rel, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644, "new").About(name), fork.Close("new").About(name))
}

func (e *emitter) item(it *item) {
	if it.kind == itemLink {
		e.add(fork.Symlink(it.source, it.fd, it.target).About(path.Join(it.layer.at, it.target)))
		return
	}
	for _, m := range it.made {
		e.make(m)
	}
	if it.kind == itemData {
		name := e.stage + "/" + string(it.fd)
		e.add(
			fork.Open(fork.CWD, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644, it.fd),
			fork.Write(it.fd, it.data).About(name),
			fork.OpenTree(name, false, it.fd),
		)
	}
	if it.kind == itemTmpfs {
		// It is opened before it goes to its place: what the name of that leads to then, somebody who writes to the image
		// could change at any time, and files of ours would be made there.
		dir := e.stage + "/" + string(it.fd)
		e.add(
			fork.Mkdir(fork.CWD, dir, 0o755),
			fork.Mount(fork.At(""), fork.At(dir), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fork.At(fmt.Sprintf("mode=%04o", it.mode))),
			fork.Open(fork.CWD, dir, unix.O_PATH|unix.O_DIRECTORY, 0, it.fd),
		)
	}
	if it.kind == itemImage {
		e.openInside(it)
	}
	e.add(fork.OpenIn("root", it.target[1:], "target").About(it.target))
	on := fork.Through("target")
	mount := func(fstype string, flags uintptr, data ...fork.Path) {
		e.add(fork.Mount(fork.At(""), on, fstype, flags, data...).About(it.target))
	}
	switch it.kind {
	case itemImage: // as the mount that it is part of is
		e.add(fork.Attach(it.fd, "target").About(it.target))
	case itemBind, itemData:
		if it.kind == itemData && e.host.setAttr {
			e.attributes(it.fd, it.attributes(), false, "")
		}
		e.add(fork.Attach(it.fd, "target").About(it.target))
		if !e.host.setAttr && it.attributes() != 0 {
			e.attributes(it.fd, it.attributes(), it.dir, it.source)
		}
	case itemTmpfs:
		e.add(fork.Attach(it.fd, "target").About(it.target))
	case itemProc:
		mount("proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC)
	case itemDevpts:
		mount("devpts", unix.MS_NOSUID|unix.MS_NOEXEC, fork.At("newinstance,ptmxmode=0666,mode=0620"))
	}
}

// attributes are those of a bind: what it shows has no set-id bits, and devices only in /dev. /proc, /sys and /dev are
// what they are on the host.
func (it *item) attributes() uint64 {
	attrs := uint64(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
	if it.devices {
		attrs = 0
	}
	if it.readOnly || it.kind == itemData {
		attrs |= unix.MOUNT_ATTR_RDONLY
	}
	return attrs
}

// attributes adds attributes to a mount. Before Linux 5.12 that is a remount, of one mount only; in a user namespace it
// has to repeat the flags that the mount has on the host, which are locked.
func (e *emitter) attributes(fd fork.FD, attrs uint64, recursive bool, source string) {
	if e.host.setAttr {
		e.add(fork.SetAttr(fd, attrs, recursive).About(source))
		return
	}
	flags := lockedFlags(source)
	for _, f := range []struct {
		attr uint64
		flag uintptr
	}{{unix.MOUNT_ATTR_RDONLY, unix.MS_RDONLY}, {unix.MOUNT_ATTR_NOSUID, unix.MS_NOSUID}, {unix.MOUNT_ATTR_NODEV, unix.MS_NODEV}} {
		if attrs&f.attr != 0 {
			flags |= f.flag
		}
	}
	e.add(fork.Mount(fork.At(""), fork.Through(fd), "", unix.MS_REMOUNT|unix.MS_BIND|flags).About(source))
}

// lockedFlags are the flags of the mount that a file of the host is on.
func lockedFlags(name string) uintptr {
	var st unix.Statfs_t
	if name == "" || unix.Statfs(name, &st) != nil {
		return 0
	}
	const same = unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC | unix.ST_NOATIME | unix.ST_NODIRATIME
	flags := uintptr(st.Flags) & same // these have the values of MS_
	if st.Flags&unix.ST_RELATIME != 0 {
		flags |= unix.MS_RELATIME
	}
	return flags
}

// finish prepares the process and executes the command.
func (e *emitter) finish() {
	if name := e.spec.Namespaces.Hostname; name != "" {
		e.add(fork.Sethostname(name))
	}
	e.changeDir()
	files := e.present(candidates(e.spec.Args[0], e.spec.Env))
	e.preloaded(files[0])
	e.execute(files)
}

// preloaded notes which file of the image is going to be executed.
func (e *emitter) preloaded(name string) {
	if e.plan.backend != BackendFUSE || len(e.plan.extras) > 0 || !e.spec.Overlay.empty() {
		return
	}
	found, kind, missing, err := e.layout.resolve(name)
	if err != nil || kind != nodeFile || len(missing) > 0 {
		return
	}
	if m, _ := e.layout.covering(found); m == e.root {
		e.plan.program = found
	}
}

// execute executes the first of files that is there.
func (e *emitter) execute(files []string) {
	if !e.spec.AllowNewPrivileges {
		e.add(fork.NoNewPrivs())
	}
	for i, fd := range []fork.FD{"stdin", "stdout", "stderr"} {
		e.add(fork.Keep(fd, fork.FD(fmt.Sprintf("std%d", i))))
	}
	for i := range 3 {
		e.add(fork.Dup(fork.FD(fmt.Sprintf("std%d", i)), i))
	}
	e.add(fork.RestoreNoFile())
	if e.spec.Contain == ContainAll {
		e.add(fork.CloseOthers(3).Lax()) // Linux 5.11 has it
	}
	if e.plan.clone&unix.CLONE_NEWPID != 0 {
		e.add(fork.Init(), fork.PDeathSig())
	} else {
		e.add(fork.PDeathSig(), fork.ParentAlive())
	}
	if e.spec.Umask != nil {
		e.add(fork.Umask(uint32(*e.spec.Umask)))
	}
	e.limits()
	if len(e.spec.Seccomp) > 0 {
		e.add(fork.Seccomp(e.spec.Seccomp))
	}
	e.add(fork.RestoreSignals())
	e.add(fork.Exec(files, e.spec.Args, e.spec.Env)...)
}

// present leaves out files that the image is known not to have: asking for them costs more than knowing it. A directory may
// have them by the time that the command is executed, an image in a file not.
func (e *emitter) present(files []string) []string {
	if e.reader == nil || !e.spec.Overlay.empty() {
		return files
	}
	found := slices.DeleteFunc(slices.Clone(files), func(name string) bool {
		dir, _, missing, err := e.layout.resolve(name)
		if err != nil || len(missing) == 0 {
			return false
		}
		m, _ := e.layout.covering(path.Join(dir, missing[0]))
		return m == e.root
	})
	if len(found) == 0 {
		return files // for the error
	}
	return found
}

// changeDir changes the working directory, which is / by now. Links of /proc that lead to descriptors or to what other processes
// have could lead further than that, and are not followed.
func (e *emitter) changeDir() {
	switch {
	case e.cwd == "/":
	case e.spec.Dir != "":
		e.add(fork.OpenIn(fork.CWD, e.cwd, "cwd"), fork.Fchdir("cwd").About(e.cwd))
	default:
		e.add(
			fork.Open(fork.CWD, "/", unix.O_PATH|unix.O_DIRECTORY, 0, "cwd"), fork.OpenIn(fork.CWD, e.cwd, "cwd").Lax(),
			fork.Fchdir("cwd").About(e.cwd).Lax(),
		)
	}
}

// candidates are the files that a command may be: along the PATH of its environment, in the image. Relative directories
// there would be looked up in the working directory, which others may write to.
func candidates(name string, env []string) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	dirs := DefaultPath
	for _, kv := range env {
		if value, ok := strings.CutPrefix(kv, "PATH="); ok && value != "" {
			dirs = value
		}
	}
	var files []string
	for dir := range strings.SplitSeq(dirs, ":") {
		if strings.HasPrefix(dir, "/") {
			files = append(files, strings.TrimRight(dir, "/")+"/"+name)
		}
	}
	if len(files) == 0 {
		files = []string{"/" + name}
	}
	return files
}
