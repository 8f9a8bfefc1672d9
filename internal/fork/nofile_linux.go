package fork

import (
	"bytes"
	"encoding/binary"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// OriginalNoFile returns the limit of open files that this process was started with, if the Go runtime has raised it and
// ok. Package syscall keeps the old value to itself and gives it to the children that it starts; so a child that only
// exits, generated into memory, is started and its limit read. Where that is forbidden, 1024 is what nearly every login
// and init system sets, and what programs with select(2) can bear.
func OriginalNoFile() (lim syscall.Rlimit, ok bool) {
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil || lim.Cur != lim.Max-1 {
		return lim, false // the runtime sets one less than the hard limit
	}
	if err := limitOfChild(&lim); err != nil {
		lim.Cur = min(1024, lim.Max)
	}
	return lim, true
}

func limitOfChild(lim *syscall.Rlimit) error {
	program := exitProgram()
	if program == nil {
		return unix.ENOEXEC
	}
	fd, err := unix.MemfdCreate("exit", unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if err != nil {
		if fd, err = unix.MemfdCreate("exit", unix.MFD_CLOEXEC); err != nil {
			return err
		}
	}
	f := os.NewFile(uintptr(fd), "/proc/self/fd/exit")
	defer f.Close()
	if _, err := f.Write(program); err != nil {
		return err
	}
	// Opened for writing, it could not be executed; closed, it would be gone.
	ro, err := os.Open("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return err
	}
	defer ro.Close()
	f.Close()
	p, err := os.StartProcess("/proc/self/fd/"+strconv.Itoa(int(ro.Fd())), []string{"exit"}, &os.ProcAttr{Env: []string{}})
	if err != nil {
		return err
	}
	var info unix.Siginfo
	for {
		// Until it is waited for, its limits can be read.
		err := unix.Waitid(unix.P_PID, p.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			break
		}
	}
	var old unix.Rlimit
	limErr := unix.Prlimit(p.Pid, unix.RLIMIT_NOFILE, nil, &old)
	if _, err := p.Wait(); err != nil {
		return err
	}
	if limErr == nil {
		lim.Cur, lim.Max = old.Cur, old.Max
	}
	return limErr
}

// exitProgram is an ELF executable that calls exit_group(0); nil for machines that there is none for.
func exitProgram() []byte {
	var code []byte
	var machine uint16
	switch runtime.GOARCH {
	case "amd64": // xor edi, edi; mov eax, 231; syscall
		machine, code = 62, []byte{0x31, 0xff, 0xb8, 0xe7, 0, 0, 0, 0x0f, 0x05}
	case "arm64": // mov x0, #0; mov x8, #94; svc #0
		machine, code = 183, []byte{0, 0, 0x80, 0xd2, 0xc8, 0x0b, 0x80, 0xd2, 1, 0, 0, 0xd4}
	default:
		return nil
	}
	const headers, base = 64 + 56, 0x400000
	var b bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			_ = binary.Write(&b, binary.LittleEndian, v)
		}
	}
	put([]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	put(uint16(2), machine, uint32(1), uint64(base+headers), uint64(64), uint64(0), uint32(0))
	put(uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0))
	size := uint64(headers + len(code))
	put(uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x10000))
	b.Write(code)
	return b.Bytes()
}
