package cache

import (
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

func identify(info fs.FileInfo) identity {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}
	}
	return identity{inode: st.Ino, size: info.Size(), mtime: st.Mtimespec.Nano(), ctime: st.Ctimespec.Nano()}
}

func bootID() string {
	id, err := unix.Sysctl("kern.bootsessionuuid")
	if err != nil {
		return ""
	}
	return id
}
