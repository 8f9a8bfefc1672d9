package runtime

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Spec says what to run in which image, and what of the host the image sees. Only Image and Args are needed; the other
// fields' zero values do what users of Apptainer expect: same user, home, /tmp and the host's devices visible.
type Spec struct {
	// Image becomes the root directory, read-only.
	Image Image
	// Args is the command. A name without a slash is looked up in the PATH of Env, in the image.
	Args []string
	// Env is the whole environment; see Environment. PWD, if it is there, becomes the working directory.
	Env []string
	// Dir is the working directory in the image. Empty means HostDir where the image shows it, else the home
	// directory, else /.
	Dir string
	// HostDir is a directory of the host, usually the working directory, that is bound at the same path unless it is
	// visible anyway. Empty means none.
	HostDir string
	// Home is the home directory.
	Home Home
	// User is the line of /etc/passwd that the image gets. Nil means that of the host, or one made up.
	User *User
	// Identity says who the command runs as.
	Identity Identity
	// Overlay makes the root directory writable, or lays directories over it. The image is never written to.
	Overlay Overlay
	// Contain says how little of the host is visible.
	Contain Contain
	// Omit leaves out single mounts.
	Omit Omit
	// Shared lets the plan be started in a Session. It cannot have namespaces but those for mounts and users.
	Shared bool
	// Namespaces are made besides those for mounts and, unless root, users.
	Namespaces Namespaces
	// Binds are directories and files of the host that are visible in the image.
	Binds []Bind
	// Injections add devices, libraries and variables; see packages runtime/gpu and runtime/mpi.
	Injections []Injection
	// AllowNewPrivileges lets set-id programs on the host's file systems have their effect. They never do in a user
	// namespace.
	AllowNewPrivileges bool
	// Seccomp is a filter of system calls in the machine's byte order, a compiled BPF program as libseccomp exports one,
	// or package runtime/seccomp makes of a profile. It has to allow execve
	// and rt_sigprocmask, which are made under it. Empty means none.
	Seccomp []byte
	// Limits are those of resources; what is not named is as the caller has it. Where they would raise what this process has, the
	// error is a *LimitError.
	Limits []Limit
	// Umask is the file mode creation mask, a number up to 0777; nil means the caller's.
	Umask *fs.FileMode
	// AdmitOthers is asked as Image.Admit is, about each image that is laid over the one that the command runs in (Overlay), or bound of
	// (Bind.ImageDir). Nil admits everything.
	AdmitOthers func(ctx context.Context, f *os.File, offset, size int64) error
	// Logger gets decisions at Debug level; nil means none.
	Logger *slog.Logger
}

// Image is a directory or a squashfs image.
type Image struct {
	// Path is a directory, or a file that is or contains a squashfs image.
	Path string
	// Offset and Size say where in the file the image is; a Size of 0 means up to the end. A SIF's are those of its
	// primary partition.
	Offset, Size int64
	// Backend is how the contents are reached.
	Backend Backend
	// Trusted images are given to the kernel, or to squashfuse_ll, unchecked. Others have their tables looked at first
	// (squashfs.Check without the contents of files): those parsers were not written for images that somebody has made to break them.
	Trusted bool
	// FUSEDevice is the device for BackendFUSE and BackendSquashfuse; empty means /dev/fuse.
	FUSEDevice string
	// Squashfuse is the program of BackendSquashfuse; empty means squashfuse_ll in PATH.
	Squashfuse string
	// ExtractDir is a directory in which BackendExtract makes a temporary one. Empty means memory: then the copy
	// vanishes with the process, whatever ends it.
	ExtractDir string
	// Admit is asked by each start, before the kernel or the command gets anything of the image, with the open file that is then mounted, and with
	// the part of it. An error ends the start. Nil admits everything. A directory has neither offset nor size.
	Admit func(ctx context.Context, f *os.File, offset, size int64) error
	// OnError, if set, is told what ended in EIO for the command, as a *mount.ServeError: the image is damaged, or was changed while it was
	// used. It is called from many goroutines while this process serves the image (BackendFUSE), and must return fast.
	OnError func(error)
}

// Backend is a way to reach the contents of an image.
type Backend string

const (
	// BackendAuto is the best that works; Plan.Backend says which, and Plan.String why.
	BackendAuto Backend = ""
	// BackendDirectory binds a directory.
	BackendDirectory Backend = "directory"
	// BackendKernel mounts squashfs by the kernel over a loop device: root only.
	BackendKernel Backend = "kernel"
	// BackendFUSE serves squashfs from this process, which has to live as long as anything uses the image. It needs
	// access to /dev/fuse, and no helper.
	BackendFUSE Backend = "fuse"
	// BackendSquashfuse serves squashfs from squashfuse_ll, a program of the host's, which has to be built with libfuse 3.3 or
	// later. It lives as long as anything uses the image, this process or not. Nothing is gained by it where BackendFUSE works,
	// and it needs the same device: BackendAuto never takes it. Versions before 0.2 show files of users that the command's
	// user namespace does not have as those of nobody.
	BackendSquashfuse Backend = "squashfuse"
	// BackendExtract unpacks squashfs, by default into memory of the mount namespace.
	BackendExtract Backend = "extract"
)

// Identity is who the command runs as.
type Identity string

const (
	// IdentitySame is the caller.
	IdentitySame Identity = ""
	// IdentityRoot is user 0 of a user namespace to which only the caller is mapped: what apt and the like want to see.
	IdentityRoot Identity = "root"
	// IdentityRootRange is IdentityRoot with further users and groups, those that /etc/subuid and /etc/subgid give the
	// caller: package managers that create users need them. Without those, or as root, it is IdentityRoot.
	IdentityRootRange Identity = "root-range"
)

// Overlay is what is laid over the image. An ordinary user needs Linux 5.11 for it.
type Overlay struct {
	// Tmpfs makes the root directory writable in memory: changes go with the command.
	Tmpfs bool
	// TmpfsSize bounds the changes, in bytes. Zero is the kernel's own bound, half of the memory.
	TmpfsSize int64
	// Dir makes the root directory writable and keeps the changes in a directory of the host, in its subdirectories
	// upper and work, which are made if they are missing. Only one command at a time can use it.
	Dir string
	// Layers are directories of the host, or squashfs images and SIF files, laid over the image, the last on top. They are only
	// read. Images are served as Bind.ImageDir says.
	Layers []string
}

func (o *Overlay) writable() bool { return o.Tmpfs || o.Dir != "" }

func (o *Overlay) empty() bool { return !o.writable() && len(o.Layers) == 0 }

// Contain is a degree of isolation from the host's files.
type Contain string

const (
	// ContainNone shows home, /tmp, /var/tmp, /proc, /sys and /dev of the host.
	ContainNone Contain = ""
	// ContainFiles gives an empty home, /tmp and /var/tmp in memory, and the few devices that every program needs.
	ContainFiles Contain = "files"
	// ContainAll adds PID and IPC namespaces to ContainFiles, and passes on no descriptors but the three standard ones. Before Linux 5.11,
	// those that this process means for all its children are passed on too.
	ContainAll Contain = "all"
)

// Home is the home directory in the image.
type Home struct {
	// Source is a directory of the host, which has to exist. Empty means the user's, if there is one, or an empty
	// directory under ContainFiles.
	Source string
	// Target is where it is in the image; empty means the path of the source.
	Target string
}

// Omit leaves out mounts.
type Omit struct {
	Proc, Sys, Dev bool
	Tmp            bool // /tmp and /var/tmp
	Home           bool
	HostDir        bool
	Etc            bool // resolv.conf, hosts, passwd, group and localtime of /etc
}

// Namespaces are those that are made on request.
type Namespaces struct {
	// User is for root, who needs none.
	User bool
	// PID comes with a process 1 that reaps, and with its own /proc. MPI over shared memory does not work across it.
	PID bool
	IPC bool
	Net bool
	// Hostname makes a UTS namespace with that host name, unless empty.
	Hostname string
}

// Bind makes a directory or file of the host visible in the image.
type Bind struct {
	Source string
	// Target is a path in the image; empty means that of the source. Symbolic links of the image are followed, within
	// the image. What is missing is made, not in the image but in front of it.
	Target   string
	ReadOnly bool
	// ImageDir, unless empty, says that Source is an image in a file, squashfs or SIF, of which this directory or file is bound: an absolute
	// path in it. Images are read-only. The process that starts the command serves them through FUSE, and lives as long as the
	// command.
	ImageDir string
	// Optional binds are left out if their source does not exist.
	Optional bool
}

// User is a line of /etc/passwd.
type User struct {
	Name     string
	UID, GID int
	Home     string
	Shell    string
}

// Injection is what a device or a library of the host needs in the image.
type Injection struct {
	// Name says whose it is: "nvidia", "pmix".
	Name string
	// Binds go to the same path, or to their Target.
	Binds []Bind
	// Libraries appear in LibDir, which the environment's LD_LIBRARY_PATH names.
	Libraries []Library
	// Env has variables, "NAME=value", that the image's command gets unless the user sets them.
	Env []string
	// Notes say what was not found, or what to mind.
	Notes []string
}

// Library is a shared library of the host.
type Library struct {
	// Source is the file; Names are the file names in LibDir, such as SONAME and development link. The first is the
	// file, the others are links to it.
	Source string
	Names  []string
}

// LibDir is the directory of the image in which injected libraries appear.
const LibDir = "/.singularity.d/libs"

// ParseBind reads SOURCE[:TARGET[:OPTION,…]], with the options ro, rw, and image-src=PATH, which is ImageDir. A colon or backslash in a path is escaped by a backslash.
func ParseBind(s string) (Bind, error) {
	parts := []string{""}
	for i := 0; i < len(s); i++ {
		last := &parts[len(parts)-1]
		switch {
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == ':' || s[i+1] == '\\'):
			i++
			*last += s[i : i+1]
		case s[i] == ':':
			parts = append(parts, "")
		default:
			*last += s[i : i+1]
		}
	}
	b := Bind{Source: parts[0]}
	invalid := func(why string) (Bind, error) {
		return Bind{}, fmt.Errorf("runtime: bind %q: %s: %w", s, why, fs.ErrInvalid)
	}
	if len(parts) > 3 {
		return invalid("more than source, target and options")
	}
	if b.Source == "" {
		return invalid("no source")
	}
	if len(parts) > 1 {
		b.Target = parts[1]
	}
	if len(parts) > 2 {
		for option := range strings.SplitSeq(parts[2], ",") {
			dir, ofImage := strings.CutPrefix(option, "image-src=")
			switch {
			case option == "ro":
				b.ReadOnly = true
			case option == "rw", option == "":
				b.ReadOnly = false
			case ofImage && path.IsAbs(dir):
				b.ImageDir = dir
			default:
				return invalid("unknown option " + option)
			}
		}
	}
	return b, nil
}

// validate finds what no host could run. It names the field.
func (s *Spec) validate() error {
	invalid := func(field, value, why string) error {
		return fmt.Errorf("field %s of the specification, %q: %s: %w", field, value, why, fs.ErrInvalid)
	}
	switch {
	case s.Image.Path == "":
		return invalid("Image.Path", "", "empty")
	case len(s.Args) == 0 || s.Args[0] == "":
		return invalid("Args", "", "no command")
	case s.Image.Offset < 0 || s.Image.Size < 0:
		return invalid("Image", s.Image.Path, "negative offset or size")
	case s.Dir != "" && !path.IsAbs(s.Dir):
		return invalid("Dir", s.Dir, "not absolute")
	case s.HostDir != "" && !path.IsAbs(s.HostDir):
		return invalid("HostDir", s.HostDir, "not absolute")
	case s.Home.Target != "" && !path.IsAbs(s.Home.Target):
		return invalid("Home.Target", s.Home.Target, "not absolute")
	}
	const instruction, most = 8, 4096
	if n := len(s.Seccomp); n%instruction != 0 || n > instruction*most {
		return invalid("Seccomp", fmt.Sprintf("%d bytes", n), "not a program of up to 4096 instructions of 8 bytes")
	}
	if len(s.Seccomp) > 0 && s.AllowNewPrivileges {
		return invalid("Seccomp", "true", "not together with AllowNewPrivileges")
	}
	if s.Umask != nil && *s.Umask&^fs.ModePerm != 0 {
		return invalid("Umask", s.Umask.String(), "more than permissions")
	}
	for _, l := range s.Limits {
		if err := l.validate(); err != nil {
			return err
		}
	}
	if ns := s.Namespaces; s.Shared && (ns.PID || ns.IPC || ns.Net || ns.Hostname != "" || s.Contain == ContainAll) {
		return invalid("Shared", "true", "not with namespaces besides those for mounts and users")
	}
	if s.Overlay.Tmpfs && s.Overlay.Dir != "" {
		return invalid("Overlay.Dir", s.Overlay.Dir, "changes go either there or to memory")
	}
	if s.Overlay.TmpfsSize < 0 {
		return invalid("Overlay.TmpfsSize", strconv.FormatInt(s.Overlay.TmpfsSize, 10), "negative")
	}
	for _, b := range s.binds() {
		if b.Source == "" || !path.IsAbs(b.target()) {
			return invalid("Binds", b.Source+":"+b.Target, "source and target have to be absolute paths")
		}
	}
	for _, kv := range s.Env {
		if name, _, ok := strings.Cut(kv, "="); !ok || name == "" {
			return invalid("Env", kv, "not NAME=value")
		}
	}
	for _, text := range append(append([]string{s.Image.Path, s.Dir, s.HostDir, s.Home.Source, s.Home.Target, s.Namespaces.Hostname, s.Overlay.Dir}, s.Args...), slices.Concat(s.Overlay.Layers, s.Env)...) {
		if strings.ContainsRune(text, 0) {
			return invalid("Args, Env and paths", text, "NUL")
		}
	}
	return nil
}

// binds are all binds, those of injections first: the user's word is the last.
func (s *Spec) binds() []Bind {
	var all []Bind
	for _, inj := range s.Injections {
		all = append(all, inj.Binds...)
	}
	return append(all, s.Binds...)
}

func (b Bind) target() string {
	if b.Target == "" {
		return b.Source
	}
	return b.Target
}
