package fork

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Call is one system call of a table. It prints as strace would print it.
type Call struct {
	name string
	nr   uintptr
	args []arg
	out  FD     // the result is a descriptor of this name
	path string // the file concerned, for errors
	kind kind
	want uintptr // the only result that counts as success, where kind is kindWant
}

// kind says what the child does with the result of a call.
type kind uintptr

const (
	kindPlain  kind = iota // fails on an error
	kindFD                 // the result becomes a descriptor of the table
	kindWant               // fails on any result but one
	kindLax                // an error does not matter
	kindExec               // an error that means "not here" leads to the next call, if that is of this kind too
	kindMask               // restore the signal mask
	kindInit               // fork: the child goes on, the parent waits for it as process 1 of a PID namespace
	kindSave               // the result becomes the first argument of the last call of kindSaved
	kindSaved              // see kindSave
	kindParent             // as kindWant, and the result is the parent
	kindNoFile             // see RestoreNoFile
	kindTry                // as kindFD, and an error leaves the descriptor what it was
)

// Name is the name of the system call.
func (c Call) Name() string { return c.name }

// Path is the file that the call is about; empty if it is about none.
func (c Call) Path() string { return c.path }

// Exec says whether the call executes the program.
func (c Call) Exec() bool { return c.kind == kindExec }

// About returns the call with path as the file that errors name, for calls whose arguments are descriptors.
func (c Call) About(path string) Call {
	c.path = path
	return c
}

// Lax returns the call so that its failure does not matter. A descriptor that it would have opened stays what it was: an
// earlier call has to open one of that name.
func (c Call) Lax() Call {
	if c.kind == kindFD {
		c.kind = kindTry
	} else {
		c.kind = kindLax
	}
	return c
}

func (c Call) String() string {
	if c.kind == kindSaved {
		return c.name + "(saved)"
	}
	parts := make([]string, len(c.args))
	for i, a := range c.args {
		parts[i] = a.String()
	}
	s := c.name + "(" + strings.Join(parts, ", ") + ")"
	switch {
	case c.out != "":
		s += " = " + c.out.String()
		if c.kind == kindTry {
			s += " || true"
		}
	case c.kind == kindLax:
		s += " || true"
	case c.kind == kindSave:
		s += " = saved"
	case c.kind == kindParent:
		s += " = parent"
	}
	return s
}

// PDeathSig asks for SIGKILL when the thread that forked this process ends.
func PDeathSig() Call {
	return Call{name: "prctl", nr: unix.SYS_PRCTL, args: []arg{
		word(unix.PR_SET_PDEATHSIG, "PR_SET_PDEATHSIG"), word(int(unix.SIGKILL), "SIGKILL"),
	}}
}

// NoNewPrivs makes set-id bits and file capabilities powerless from here on.
func NoNewPrivs() Call {
	return Call{name: "prctl", nr: unix.SYS_PRCTL, args: []arg{word(unix.PR_SET_NO_NEW_PRIVS, "PR_SET_NO_NEW_PRIVS"), word(1, "1"), word(0, "0"), word(0, "0"), word(0, "0")}}
}

// NoDump keeps other processes from looking into this one, or taking it over, until it executes the program: those that are
// in the user namespace which it enters, and have more privileges there than outside.
func NoDump() Call {
	return Call{name: "prctl", nr: unix.SYS_PRCTL, args: []arg{word(unix.PR_SET_DUMPABLE, "PR_SET_DUMPABLE"), word(0, "0"), word(0, "0"), word(0, "0"), word(0, "0")}}
}

// CloseOthers marks all descriptors from first on close-on-exec, those among them that the caller means for its children.
func CloseOthers(first int) Call {
	return Call{name: "close_range", nr: unix.SYS_CLOSE_RANGE, args: []arg{
		word(first, ""), word(uint(math.MaxUint32), "~0"), word(unix.CLOSE_RANGE_CLOEXEC, "CLOSE_RANGE_CLOEXEC"),
	}}
}

// bpfInstruction is the size of an instruction of classic BPF.
const bpfInstruction = 8

// Seccomp installs a filter of system calls, a program of classic BPF. It applies to the calls that follow, and needs
// NoNewPrivs or privileges.
func Seccomp(filter []byte) Call {
	return Call{name: "prctl", nr: unix.SYS_PRCTL, args: []arg{
		word(unix.PR_SET_SECCOMP, "PR_SET_SECCOMP"), word(unix.SECCOMP_MODE_FILTER, "SECCOMP_MODE_FILTER"),
		{kind: argFilter, data: filter, text: fmt.Sprintf("%d instructions", len(filter)/bpfInstruction)},
	}}
}

// Unshare makes new namespaces.
func Unshare(flags uintptr) Call {
	return Call{name: "unshare", nr: unix.SYS_UNSHARE, args: []arg{word(flags, Namespaces(flags))}}
}

// Setns joins the namespace fd.
func Setns(fd FD, flag uintptr) Call {
	return Call{name: "setns", nr: unix.SYS_SETNS, args: []arg{fdArg(fd), word(flag, Namespaces(flag))}}
}

// Namespaces formats flags of clone and unshare.
func Namespaces(flags uintptr) string {
	return format(uint64(flags), []flag{
		{unix.CLONE_NEWUSER, "CLONE_NEWUSER"},
		{unix.CLONE_NEWNS, "CLONE_NEWNS"},
		{unix.CLONE_NEWPID, "CLONE_NEWPID"},
		{unix.CLONE_NEWIPC, "CLONE_NEWIPC"},
		{unix.CLONE_NEWUTS, "CLONE_NEWUTS"},
		{unix.CLONE_NEWNET, "CLONE_NEWNET"},
	})
}

// Open opens path, below dir unless it is absolute. O_CLOEXEC is implied.
func Open(dir FD, path string, flags, mode uint32, out FD) Call {
	flags |= unix.O_CLOEXEC
	args := []arg{fdArg(dir), str(path), word(flags, openFlags(uint64(flags)))}
	if flags&unix.O_CREAT != 0 {
		args = append(args, word(mode, fmt.Sprintf("%#04o", mode)))
	}
	return Call{name: "openat", nr: unix.SYS_OPENAT, args: args, out: out, path: path, kind: kindFD}
}

// OpenIn opens path as a process would whose root directory is dir, for reference only (O_PATH). No symbolic link leads
// out of dir, nor is a magic link followed, whoever changes the tree meanwhile.
func OpenIn(dir FD, path string, out FD) Call {
	return openat2(dir, path, unix.O_PATH, 0, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS, out)
}

// OpenBeneath is Open for a path below dir on which there may be no symbolic link at all, nor a way out of dir.
func OpenBeneath(dir FD, path string, flags, mode uint32, out FD) Call {
	return openat2(dir, path, uint64(flags), uint64(mode), unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS, out)
}

func openat2(dir FD, path string, flags, mode, resolve uint64, out FD) Call {
	flags |= unix.O_CLOEXEC
	how := binary.NativeEndian.AppendUint64(nil, flags)
	how = binary.NativeEndian.AppendUint64(how, mode)
	how = binary.NativeEndian.AppendUint64(how, resolve)
	text := openFlags(flags)
	if mode != 0 {
		text += fmt.Sprintf(", %#04o", mode)
	}
	text += ", " + format(resolve, []flag{
		{unix.RESOLVE_IN_ROOT, "RESOLVE_IN_ROOT"},
		{unix.RESOLVE_BENEATH, "RESOLVE_BENEATH"},
		{unix.RESOLVE_NO_SYMLINKS, "RESOLVE_NO_SYMLINKS"},
		{unix.RESOLVE_NO_MAGICLINKS, "RESOLVE_NO_MAGICLINKS"},
	})
	return Call{name: "openat2", nr: unix.SYS_OPENAT2, args: []arg{
		fdArg(dir), str(path), buffer(how, "{"+text+"}"), word(len(how), ""),
	}, out: out, path: path, kind: kindFD}
}

func openFlags(bits uint64) string {
	s := format(bits&^unix.O_ACCMODE, []flag{
		{unix.O_PATH, "O_PATH"},
		{unix.O_CREAT, "O_CREAT"},
		{unix.O_EXCL, "O_EXCL"},
		{unix.O_DIRECTORY, "O_DIRECTORY"},
		{unix.O_NOFOLLOW, "O_NOFOLLOW"},
		{unix.O_CLOEXEC, "O_CLOEXEC"},
	})
	switch {
	case bits&unix.O_PATH != 0:
		return s
	case bits&unix.O_ACCMODE == unix.O_WRONLY:
		return "O_WRONLY|" + s
	case bits&unix.O_ACCMODE == unix.O_RDWR:
		return "O_RDWR|" + s
	}
	return "O_RDONLY|" + s
}

// Write writes all of data, which must fit in one call.
func Write(fd FD, data []byte) Call {
	text := strconv.Quote(string(data))
	if len(data) > 64 {
		text = strconv.Quote(string(data[:48])) + "..."
	}
	return Call{name: "write", nr: unix.SYS_WRITE, args: []arg{fdArg(fd), buffer(data, text), word(len(data), "")}, kind: kindWant, want: uintptr(len(data))}
}

// ReadByte waits for one byte; end of file is an error.
func ReadByte(fd FD) Call {
	return Call{name: "read", nr: unix.SYS_READ, args: []arg{fdArg(fd), buffer(make([]byte, 1), "buf"), word(1, "")}, kind: kindWant, want: 1}
}

// SendFD sends one byte and a descriptor over a Unix socket.
func SendFD(socket, fd FD) Call {
	return Call{name: "sendmsg", nr: unix.SYS_SENDMSG, args: []arg{
		fdArg(socket), {kind: argMessage, fd: fd, text: "{SCM_RIGHTS, [" + fd.String() + "]}"}, word(unix.MSG_NOSIGNAL, "MSG_NOSIGNAL"),
	}, kind: kindWant, want: 1}
}

// Close closes a descriptor.
func Close(fd FD) Call {
	return Call{name: "close", nr: unix.SYS_CLOSE, args: []arg{fdArg(fd)}}
}

// Mkdir makes a directory.
func Mkdir(dir FD, path string, mode uint32) Call {
	return Call{name: "mkdirat", nr: unix.SYS_MKDIRAT, args: []arg{fdArg(dir), str(path), word(mode, fmt.Sprintf("%#04o", mode))}, path: path}
}

// Symlink makes a symbolic link.
func Symlink(target string, dir FD, path string) Call {
	return Call{name: "symlinkat", nr: unix.SYS_SYMLINKAT, args: []arg{str(target), fdArg(dir), str(path)}, path: path}
}

// Dup makes fd the descriptor n, which stays open when the program is executed.
func Dup(fd FD, n int) Call {
	return Call{name: "dup3", nr: unix.SYS_DUP3, args: []arg{fdArg(fd), word(n, ""), word(0, "0")}}
}

// Keep gives the descriptor fd a second name, with a number at which nothing of the caller stands.
func Keep(fd, out FD) Call {
	return Call{name: "fcntl", nr: unix.SYS_FCNTL, args: []arg{fdArg(fd), word(unix.F_DUPFD_CLOEXEC, "F_DUPFD_CLOEXEC"), word(3, "3")}, out: out, kind: kindFD}
}

// Inherit has the program get fd under the number that it has in this table. What CloseOthers has marked before is no longer so.
func Inherit(fd FD) Call {
	return Call{name: "fcntl", nr: unix.SYS_FCNTL, args: []arg{fdArg(fd), word(unix.F_SETFD, "F_SETFD"), word(0, "0")}}
}

// Setsid starts a session, without a terminal: signals of the caller's do not come here.
func Setsid() Call { return Call{name: "setsid", nr: unix.SYS_SETSID} }

// Chdir changes the working directory.
func Chdir(path string) Call {
	return Call{name: "chdir", nr: unix.SYS_CHDIR, args: []arg{str(path)}, path: path}
}

// Fchdir changes the working directory to that of fd.
func Fchdir(fd FD) Call {
	return Call{name: "fchdir", nr: unix.SYS_FCHDIR, args: []arg{fdArg(fd)}}
}

// ParentAlive fails if the process that forked has ended; PDeathSig is silent about one that ended before.
func ParentAlive() Call {
	return Call{name: "getppid", nr: unix.SYS_GETPPID, kind: kindParent}
}

// ClearUmask sets the file mode creation mask to 0; RestoreUmask undoes that.
func ClearUmask() Call {
	return Call{name: "umask", nr: unix.SYS_UMASK, args: []arg{word(0, "0")}, kind: kindSave}
}

// RestoreUmask sets the file mode creation mask that ClearUmask replaced.
func RestoreUmask() Call {
	return Call{name: "umask", nr: unix.SYS_UMASK, args: []arg{word(0, "0")}, kind: kindSaved}
}

// Umask sets the file mode creation mask of the program.
func Umask(mask uint32) Call {
	return Call{name: "umask", nr: unix.SYS_UMASK, args: []arg{word(mask, fmt.Sprintf("%#04o", mask))}}
}

// Sethostname sets the host name of the UTS namespace.
func Sethostname(name string) Call {
	return Call{name: "sethostname", nr: unix.SYS_SETHOSTNAME, args: []arg{buffer([]byte(name), strconv.Quote(name)), word(len(name), "")}}
}

// Setrlimit sets a resource limit of this process.
func Setrlimit(resource int, name string, lim syscall.Rlimit) Call {
	data := binary.NativeEndian.AppendUint64(nil, lim.Cur)
	data = binary.NativeEndian.AppendUint64(data, lim.Max)
	return Call{name: "prlimit64", nr: unix.SYS_PRLIMIT64, args: []arg{
		word(0, "0"), word(resource, name), buffer(data, fmt.Sprintf("{%d, %d}", lim.Cur, lim.Max)), word(0, "NULL"),
	}}
}

// RestoreNoFile gives the program the limit of open files that this process was started with; see OriginalNoFile. Descriptors can have
// numbers above it: no call that opens one, or gives one another number, may follow. A table that executes a program has to have it, since
// ExecutorMemfd runs the others with the limit of the caller.
func RestoreNoFile() Call {
	return Call{name: "prlimit64", nr: unix.SYS_PRLIMIT64, args: []arg{
		word(0, "0"), word(unix.RLIMIT_NOFILE, "RLIMIT_NOFILE"), word(0, "original"), word(0, "NULL"),
	}, kind: kindNoFile}
}

// RestoreSignals restores the signal mask of the caller. No call but Exec may follow.
func RestoreSignals() Call {
	return Call{name: "rt_sigprocmask", nr: unix.SYS_RT_SIGPROCMASK, args: []arg{word(unix.SIG_SETMASK, "SIG_SETMASK"), word(0, "saved")}, kind: kindMask}
}

// Init forks: the child goes on with the table, while this process, which is process 1 of its PID namespace, reaps what
// dies and passes signals on, until the child ends. It exits with the child's code, or 128 and the number of the signal.
func Init() Call {
	return Call{name: "clone", nr: unix.SYS_CLONE, args: []arg{word(uintptr(unix.SIGCHLD), "SIGCHLD")}, kind: kindInit}
}

// Exec executes the first of files that exists and may be executed, as execvp does along a PATH.
func Exec(files, argv, env []string) []Call {
	calls := make([]Call, len(files))
	envText := fmt.Sprintf("%d variables", len(env))
	for i, file := range files {
		calls[i] = Call{name: "execve", nr: unix.SYS_EXECVE, args: []arg{
			str(file), {kind: argStrings, list: argv}, {kind: argStrings, list: env, text: envText},
		}, path: file, kind: kindExec}
	}
	return calls
}

func mapping(inside, outside int) string { return fmt.Sprintf("%d %d 1\n", inside, outside) }
