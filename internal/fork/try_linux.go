package fork

import (
	"context"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Exit ends the child without executing a program: everything before it has worked.
func Exit() Call {
	return Call{name: "exit_group", nr: unix.SYS_EXIT_GROUP, args: []arg{word(0, "0")}}
}

// Try runs calls, which Exit or Exec must end, in a child that nobody else sees, and waits for its end. The error is that
// of Start or Ready.
func Try(ctx context.Context, calls []Call, o *Options) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	child, err := Start(append([]Call{PDeathSig()}, calls...), o)
	if err != nil {
		return err
	}
	p, _ := os.FindProcess(child.PID) // never fails here
	if err = child.Ready(ctx); err != nil {
		_ = p.Kill()
	}
	if _, waitErr := p.Wait(); err == nil {
		err = waitErr
	}
	return err
}

// SingleMapping returns the calls that map the one user and group that an ordinary user may map: the caller's, to the
// given ones. They follow unshare(CLONE_NEWUSER).
func SingleMapping(uid, gid, hostUID, hostGID int) []Call {
	write := func(path, data string) []Call {
		return []Call{Open(CWD, path, unix.O_WRONLY, 0, "map"), Write("map", []byte(data)).About(path)}
	}
	calls := write("/proc/self/setgroups", "deny")
	calls = append(calls, write("/proc/self/uid_map", mapping(uid, hostUID))...)
	calls = append(calls, write("/proc/self/gid_map", mapping(gid, hostGID))...)
	return append(calls, Close("map"))
}
