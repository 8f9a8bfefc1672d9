package runtime

import (
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"hpcimg/internal/fork"
)

// Resources that package unix does not name.
const (
	rlimitLocks = 10 + iota
	rlimitSigpending
	rlimitMsgqueue
	rlimitNice
	rlimitRtprio
	rlimitRttime
)

// resource is the number of the resource that a limit is about.
func (l Limit) resource() int {
	switch l.Name {
	case "as":
		return unix.RLIMIT_AS
	case "core":
		return unix.RLIMIT_CORE
	case "cpu":
		return unix.RLIMIT_CPU
	case "data":
		return unix.RLIMIT_DATA
	case "fsize":
		return unix.RLIMIT_FSIZE
	case "locks":
		return rlimitLocks
	case "memlock":
		return unix.RLIMIT_MEMLOCK
	case "msgqueue":
		return rlimitMsgqueue
	case "nice":
		return rlimitNice
	case "nofile":
		return unix.RLIMIT_NOFILE
	case "nproc":
		return unix.RLIMIT_NPROC
	case "rss":
		return unix.RLIMIT_RSS
	case "rtprio":
		return rlimitRtprio
	case "rttime":
		return rlimitRttime
	case "sigpending":
		return rlimitSigpending
	}
	return unix.RLIMIT_STACK
}

// limits refuses what the kernel would refuse later: only root raises a hard limit, and no process of a user namespace.
func (c *compiler) limits() error {
	for _, l := range c.spec.Limits {
		if c.host.admin && !c.userNS() {
			return nil
		}
		var have unix.Rlimit
		if err := unix.Getrlimit(l.resource(), &have); err != nil {
			return os.NewSyscallError("getrlimit", err)
		}
		if l.Hard > have.Max {
			return &LimitError{Limit: l, Have: have.Max}
		}
	}
	return nil
}

// limits are set last, so that they do not concern what sets up the container.
func (e *emitter) limits() {
	for _, l := range e.spec.Limits {
		e.add(fork.Setrlimit(l.resource(), "RLIMIT_"+strings.ToUpper(l.Name), syscall.Rlimit{Cur: l.Soft, Max: l.Hard}))
	}
}
