package mount

import "fmt"

// FuseData returns the data argument with which mount(2) mounts a file system of type "fuse" that [Serve] answers for: fd is
// the number of the open device in the process that mounts; uid and gid are the owner of the mount, as the caller of
// mount(2) sees them. Permissions are checked by the kernel, and all users of the namespace may enter.
func FuseData(fd, uid, gid int) string {
	return fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,default_permissions,allow_other", fd, uid, gid)
}

// FuseOptions are the options of [Fuse].
type FuseOptions struct {
	// Options say which part of the file is the image. Offset may be any number here.
	Options
	Tree  *TreeOptions
	Serve *ServeOptions
	// AllowOther lets other users, root too, enter a mount that fusermount3 has made. It wants user_allow_other in
	// /etc/fuse.conf. Mounts that root has made are open to all in any case.
	AllowOther bool
	// Helper is the program that mounts for ordinary users; "" means fusermount3 in PATH. Root uses one only if it is set.
	Helper string
}
