package sifedit

import (
	"os"

	"golang.org/x/sys/unix"
)

const (
	aclName = "system.posix_acl_access"
	maxACL  = 64 << 10 // as in the kernel
)

// keepACL gives dst the access control list of src, or none if that has none, and reports whether it could.
func keepACL(dst, src *os.File) bool {
	list := make([]byte, maxACL)
	n, err := unix.Fgetxattr(int(src.Fd()), aclName, list)
	switch err {
	case nil:
		return unix.Fsetxattr(int(dst.Fd()), aclName, list[:n], 0) == nil
	case unix.ENODATA:
		// The directory may have given it one.
		err := unix.Fremovexattr(int(dst.Fd()), aclName)
		return err == nil || err == unix.ENODATA
	}
	return err == unix.ENOTSUP || err == unix.EOPNOTSUPP
}
