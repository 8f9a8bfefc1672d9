package fork

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A program is an ELF executable of two segments: the interpreter, and what it reads and writes.
//
//	file  0x0000 headers   memory 0x400000
//	      0x0100 code             0x400100
//	      0x1000 data             0x501000: record, descriptor for it, signal mask and set of all signals, limits of open files; calls; arena
//
// The difference of offset and address is a multiple of any page size, so the file needs no padding.
const (
	textAddress = 0x400000
	textOffset  = 0x100
	dataOffset  = 0x1000
	dataAddress = 0x500000 + dataOffset
	headerSize  = 64
	maskOffset  = 16
	blockOffset = 24
	limitOffset = 32 // of open files while the table runs
	savedOffset = 48 // and before
	loadAlign   = 0x10000
)

// errNoProgram says that a table cannot be run as a program here: another executor has to.
var errNoProgram = errors.New("no program in memory can be executed here")

// machine is the ELF machine of this system; 0 where there is no interpreter.
func machine() uint16 {
	switch runtime.GOARCH {
	case "amd64":
		return 62
	case "arm64":
		return 183
	}
	return 0
}

// buildProgram makes the program that runs calls. Descriptors in private are open when it starts and not meant for the
// program that the table executes; self is that of the file of the program.
func buildProgram(calls []Call, numbers map[FD]uintptr, private []uintptr, errfd, self uintptr) ([]byte, error) {
	code := interpreterCode()
	if code == nil {
		return nil, fmt.Errorf("%w: not on %s", errNoProgram, runtime.GOARCH)
	}
	raw := prologue(private, self)
	first := len(raw)
	at := func(call int) uintptr {
		return dataAddress + headerSize + uintptr(call)*unsafe.Sizeof(rawCall{})
	}
	l := &linker{numbers: numbers, base: at(first + len(calls) + 1)}
	save := -1
	for i, c := range calls {
		r, err := l.call(c)
		if err != nil {
			return nil, fmt.Errorf("call %d, %v: %w", i, c, err)
		}
		r.index = uintptr(i)
		switch r.kind {
		case kindInit:
			return nil, fmt.Errorf("%w: it would have to be process 1 of a PID namespace", errNoProgram)
		case kindSave:
			save = i
		case kindSaved:
			if save < 0 {
				return nil, fmt.Errorf("call %d uses a result that no call before it saves", i)
			}
			raw[first+save].n = at(first+i) + unsafe.Offsetof(r.args)
		case kindParent:
			r.kind, r.n = kindWant, uintptr(os.Getpid())
		case kindMask:
			r.args = [6]uintptr{unix.SIG_SETMASK, dataAddress + maskOffset, 0, sigsetSize}
		case kindNoFile:
			r.args = noFile(dataAddress+savedOffset, 0)
		}
		raw = append(raw, r)
	}
	raw = append(raw, rawCall{nr: ^uintptr(0), index: uintptr(len(calls))}) // fails: nothing was executed
	size := int(unsafe.Sizeof(rawCall{}))
	data := make([]byte, headerSize, headerSize+len(raw)*size+len(l.arena))
	binary.NativeEndian.PutUint64(data[8:], uint64(errfd))
	binary.NativeEndian.PutUint64(data[blockOffset:], ^uint64(0))
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return nil, os.NewSyscallError("getrlimit", err)
	}
	binary.NativeEndian.PutUint64(data[limitOffset:], lim.Cur)
	binary.NativeEndian.PutUint64(data[limitOffset+8:], lim.Max)
	data = append(data, unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(raw))), len(raw)*size)...)
	return executable(code, append(data, l.arena...)), nil
}

// prologue blocks signals, as the forked child has them blocked, and undoes what starting the program has taken: package syscall has restored the
// limit of open files, which the numbers of descriptors here may be above.
func prologue(private []uintptr, self uintptr) []rawCall {
	raw := []rawCall{
		{nr: unix.SYS_PRLIMIT64, args: noFile(dataAddress+limitOffset, dataAddress+savedOffset)},
		{nr: unix.SYS_RT_SIGPROCMASK, args: [6]uintptr{unix.SIG_SETMASK, dataAddress + blockOffset, dataAddress + maskOffset, sigsetSize}},
		{nr: unix.SYS_CLOSE, args: [6]uintptr{self}},
	}
	for _, fd := range private {
		raw = append(raw, rawCall{nr: unix.SYS_FCNTL, args: [6]uintptr{fd, unix.F_SETFD, unix.FD_CLOEXEC}})
	}
	return raw
}

// noFile are the arguments of prlimit64 that set the limit of open files to what is at one address, and store it at another, unless that is 0.
func noFile(set, store uintptr) [6]uintptr { return [6]uintptr{0, unix.RLIMIT_NOFILE, set, store} }

// executable wraps code and data into an ELF file. A program without data has just the one segment.
func executable(code, data []byte) []byte {
	le := binary.LittleEndian
	segments := uint16(1)
	if data != nil {
		segments = 3
	}
	b := make([]byte, 0, dataOffset+len(data))
	b = append(b, "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"...)
	b = le.AppendUint16(le.AppendUint16(b, 2), machine())
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, textAddress+textOffset)
	b = le.AppendUint64(le.AppendUint64(b, 64), 0)
	b = le.AppendUint32(b, 0)
	for _, v := range []uint16{64, 56, segments, 0, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	segment := func(kind, flags uint32, offset, address, size, align uint64) {
		b = le.AppendUint32(le.AppendUint32(b, kind), flags)
		for _, v := range []uint64{offset, address, address, size, size, align} {
			b = le.AppendUint64(b, v)
		}
	}
	const load, stack, x, w, r = 1, 0x6474e551, 1, 2, 4
	segment(load, r|x, 0, textAddress, uint64(textOffset+len(code)), loadAlign)
	if data != nil {
		segment(load, r|w, dataOffset, dataAddress, uint64(len(data)), loadAlign)
		segment(stack, r|w, 0, 0, 0, 16)
	}
	b = append(append(b, make([]byte, textOffset-len(b))...), code...)
	if data != nil {
		b = append(append(b, make([]byte, dataOffset-len(b))...), data...)
	}
	return b
}

// memfd returns a sealed file in memory with the given contents, open for reading only: one that is open for writing
// anywhere cannot be executed. So no other goroutine may fork while it is being written.
func memfd(name string, contents []byte) (*os.File, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before 6.3, where all are executable
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	w := os.NewFile(uintptr(fd), "/memfd:"+name)
	defer w.Close()
	if _, err := w.Write(contents); err != nil {
		return nil, err
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return nil, os.NewSyscallError("fcntl(F_ADD_SEALS)", err)
	}
	return os.Open("/proc/self/fd/" + strconv.Itoa(fd))
}

// startProgram runs the calls as a program in memory, which the Go runtime starts without copying the page tables of this
// process. Errors that wrap errNoProgram come before anything has happened.
func startProgram(calls []Call, numbers map[FD]uintptr, given []uintptr) (pid int, errs *os.File, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	defer w.Close()
	errfd := w.Fd()
	// The program has to know its own descriptor, so that number is taken before the file is made.
	self, err := openReserved()
	if err != nil {
		r.Close()
		return 0, nil, err
	}
	defer unix.Close(self)
	given = append(given, errfd)
	pid, err = runProgram(calls, numbers, given, errfd, self)
	if err != nil {
		r.Close()
		return 0, nil, err
	}
	return pid, r, nil
}

func runProgram(calls []Call, numbers map[FD]uintptr, given []uintptr, errfd uintptr, self int) (int, error) {
	private := slices.DeleteFunc(slices.Clone(given), passedOn)
	contents, err := buildProgram(calls, numbers, private, errfd, uintptr(self))
	if err != nil {
		return 0, err
	}
	f, err := memfd("hpcimg", contents)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errNoProgram, err)
	}
	defer f.Close()
	if err := unix.Dup3(int(f.Fd()), self, unix.O_CLOEXEC); err != nil {
		return 0, os.NewSyscallError("dup3", err)
	}
	const tries = 4
	for try := 1; ; try++ {
		pid, err := syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(self), []string{"hpcimg"}, &syscall.ProcAttr{
			Env: []string{}, Files: inherit(append(given, uintptr(self))),
		})
		switch {
		case err == nil:
			return pid, nil
		case errors.Is(err, unix.EBADF) && try < tries:
			// Somebody has closed a descriptor since it was looked at.
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EBADF):
			return 0, os.NewSyscallError("fork", err)
		default:
			return 0, fmt.Errorf("%w: %w", errNoProgram, os.NewSyscallError("execve", err))
		}
	}
}

// inherit returns the table of descriptors for a child that is to have the given ones and all that this process means to
// pass on, each under its own number. ForkExec puts a pipe of its own at the first number after the table, so nothing may
// be there.
func inherit(given []uintptr) []uintptr {
	const closed = ^uintptr(0)
	size := uintptr(3)
	for _, fd := range given {
		size = max(size, fd+1)
	}
	for passedOn(size) {
		size++
	}
	files := make([]uintptr, size)
	for fd := range size {
		if files[fd] = closed; passedOn(fd) {
			files[fd] = fd
		}
	}
	for _, fd := range given {
		files[fd] = fd
	}
	return files
}

// passedOn says whether fd is open, and children get it.
func passedOn(fd uintptr) bool {
	flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0)
	return err == nil && flags&unix.FD_CLOEXEC == 0
}
