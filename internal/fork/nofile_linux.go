package fork

import (
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// OriginalNoFile returns the limit of open files that this process was started with. Where the Go runtime has raised it, package syscall keeps the old
// value to itself and gives it to the children that it starts; so a child that only exits, generated into memory, is started and its limit read. Where
// that is forbidden, 1024 is what nearly every login and init system sets, and what programs with select(2) can bear.
func OriginalNoFile() (lim syscall.Rlimit, err error) {
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil || lim.Cur != lim.Max-1 {
		return lim, os.NewSyscallError("getrlimit", err) // the runtime sets one less than the hard limit
	}
	if err := limitOfChild(&lim); err != nil {
		lim.Cur = min(1024, lim.Max)
	}
	return lim, nil
}

func limitOfChild(lim *syscall.Rlimit) error {
	program := exitProgram()
	if program == nil {
		return unix.ENOEXEC
	}
	f, err := memfd("exit", program)
	if err != nil {
		return err
	}
	defer f.Close()
	p, err := os.StartProcess("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), []string{"exit"}, &os.ProcAttr{Env: []string{}})
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
	switch runtime.GOARCH {
	case "amd64": // xor edi, edi; mov eax, 231; syscall
		return executable([]byte{0x31, 0xff, 0xb8, 0xe7, 0, 0, 0, 0x0f, 0x05}, nil)
	case "arm64": // mov x0, #0; mov x8, #94; svc #0
		return executable([]byte{0, 0, 0x80, 0xd2, 0xc8, 0x0b, 0x80, 0xd2, 1, 0, 0, 0xd4}, nil)
	}
	return nil
}
