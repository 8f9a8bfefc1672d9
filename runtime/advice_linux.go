package runtime

import (
	"context"
	"errors"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hpcimg/internal/fork"
	"hpcimg/mount"
)

// advice says what an administrator or user can do about a call that the host forbids; empty if that is not known. It tries
// what the call is about, which takes some milliseconds.
func advice(e *fork.Error) string {
	forbidden := errors.Is(e, unix.EPERM) || errors.Is(e, unix.EACCES) || errors.Is(e, unix.ENOSPC) || errors.Is(e, unix.EUSERS) ||
		errors.Is(e, unix.ENODEV) || errors.Is(e, unix.EINVAL)
	if !forbidden || e.Call.Exec() {
		return ""
	}
	call := e.Call.String()
	check := ""
	switch {
	case strings.HasPrefix(call, "unshare(CLONE_NEWUSER"), e.Call.Path() == "/proc/self/setgroups", strings.HasSuffix(e.Call.Path(), "id_map"):
		if errors.Is(e, unix.ENOSPC) {
			return "user.max_user_namespaces or user.max_mnt_namespaces is used up or 0: an administrator can raise them by sysctl"
		}
		check = mount.CheckUserNS
	case strings.HasPrefix(call, `mount("overlay"`):
		check = mount.CheckOverlay
	case strings.HasPrefix(call, `mount("hpcimg"`):
		check = mount.CheckFUSE
	default:
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	report, err := mount.Probe(ctx)
	if err != nil {
		return ""
	}
	c := report.Lookup(check)
	if c.OK && check == mount.CheckOverlay {
		return "the directory of a writable overlay cannot be on NFS, Lustre or another overlay: use one on a local disk, or memory"
	}
	return c.Remedy
}
