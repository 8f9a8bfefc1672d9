package atomicfile

import (
	"os"
	"syscall"
)

const errNoProcess = syscall.ESRCH

func signalZero(pid int) error { return syscall.Kill(pid, 0) }

func bootAndNamespace() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	namespace, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	return string(boot) + namespace
}
