package fork

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Mount is mount(2). Parts of data may be descriptors.
func Mount(source, target Path, fstype string, flags uintptr, data ...Path) Call {
	options := arg{kind: argWord, text: "NULL"}
	if len(data) > 0 {
		options = arg{kind: argPaths, parts: data}
	}
	src := pathArg(source)
	if src.kind == argWord && flags&(unix.MS_BIND|unix.MS_REMOUNT|unix.MS_SLAVE|unix.MS_PRIVATE) == 0 {
		src = str(fstype)
	}
	return Call{name: "mount", nr: unix.SYS_MOUNT, args: []arg{
		src, pathArg(target), optional(fstype), word(flags, MountFlags(flags)), options,
	}, path: target.rel}
}

// MountFlags formats the flags of mount(2).
func MountFlags(flags uintptr) string {
	return format(uint64(flags), []flag{
		{unix.MS_BIND, "MS_BIND"},
		{unix.MS_REC, "MS_REC"},
		{unix.MS_REMOUNT, "MS_REMOUNT"},
		{unix.MS_SLAVE, "MS_SLAVE"},
		{unix.MS_PRIVATE, "MS_PRIVATE"},
		{unix.MS_RDONLY, "MS_RDONLY"},
		{unix.MS_NOSUID, "MS_NOSUID"},
		{unix.MS_NODEV, "MS_NODEV"},
		{unix.MS_NOEXEC, "MS_NOEXEC"},
		{unix.MS_NOATIME, "MS_NOATIME"},
		{unix.MS_NODIRATIME, "MS_NODIRATIME"},
		{unix.MS_RELATIME, "MS_RELATIME"},
	})
}

// SetAttr adds attributes to the mount fd and, with recursive, to all below it. Attributes that are set, locked ones
// among them, stay as they are.
func SetAttr(fd FD, set uint64, recursive bool) Call {
	data := binary.NativeEndian.AppendUint64(nil, set)
	data = append(data, make([]byte, 24)...)
	flags, text := uintptr(unix.AT_EMPTY_PATH), "AT_EMPTY_PATH"
	if recursive {
		flags, text = flags|unix.AT_RECURSIVE, text+"|AT_RECURSIVE"
	}
	return Call{name: "mount_setattr", nr: unix.SYS_MOUNT_SETATTR, args: []arg{
		fdArg(fd), str(""), word(flags, text), buffer(data, "{"+attrText(set)+"}"), word(len(data), ""),
	}}
}

func attrText(set uint64) string {
	return format(set, []flag{
		{unix.MOUNT_ATTR_RDONLY, "MOUNT_ATTR_RDONLY"},
		{unix.MOUNT_ATTR_NOSUID, "MOUNT_ATTR_NOSUID"},
		{unix.MOUNT_ATTR_NODEV, "MOUNT_ATTR_NODEV"},
		{unix.MOUNT_ATTR_NOEXEC, "MOUNT_ATTR_NOEXEC"},
	})
}

// Pivot makes the working directory, which must be a mount point, the root directory, and the old root the working
// directory's mount on top of it; Detach(".") then drops the old one.
func Pivot() Call {
	return Call{name: "pivot_root", nr: unix.SYS_PIVOT_ROOT, args: []arg{str("."), str(".")}}
}

// Detach unmounts path lazily.
func Detach(path string) Call {
	return Call{name: "umount2", nr: unix.SYS_UMOUNT2, args: []arg{str(path), word(unix.MNT_DETACH, "MNT_DETACH")}, path: path}
}

// OpenTree clones the file or directory at path, and what is mounted below it, as a detached tree of mounts. A symbolic
// link is not followed.
func OpenTree(path string, recursive bool, out FD) Call {
	const flags = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_SYMLINK_NOFOLLOW
	bits, text := uintptr(flags), "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_SYMLINK_NOFOLLOW"
	if recursive {
		bits, text = bits|unix.AT_RECURSIVE, text+"|AT_RECURSIVE"
	}
	return Call{name: "open_tree", nr: unix.SYS_OPEN_TREE, args: []arg{fdArg(CWD), str(path), word(bits, text)}, out: out, path: path, kind: kindFD}
}

// Clone is OpenTree for what fd, which was opened for reference, stands for: no name is looked up.
func Clone(fd, out FD) Call {
	const flags = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH
	return Call{name: "open_tree", nr: unix.SYS_OPEN_TREE, args: []arg{
		fdArg(fd), str(""), word(uintptr(flags), "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_EMPTY_PATH"),
	}, out: out, kind: kindFD}
}

// Attach mounts the detached tree on the file or directory target.
func Attach(tree, target FD) Call {
	return Call{name: "move_mount", nr: unix.SYS_MOVE_MOUNT, args: []arg{
		fdArg(tree), str(""), fdArg(target), str(""), word(uintptr(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH), "MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH"),
	}}
}

// AttachAt mounts the detached tree at path.
func AttachAt(tree FD, path string) Call {
	return Call{name: "move_mount", nr: unix.SYS_MOVE_MOUNT, args: []arg{
		fdArg(tree), str(""), fdArg(CWD), str(path), word(unix.MOVE_MOUNT_F_EMPTY_PATH, "MOVE_MOUNT_F_EMPTY_PATH"),
	}, path: path}
}

// FSOpen opens a file system context, which tells whether the kernel knows the type.
func FSOpen(fstype string, out FD) Call {
	return Call{name: "fsopen", nr: unix.SYS_FSOPEN, args: []arg{str(fstype), word(unix.FSOPEN_CLOEXEC, "FSOPEN_CLOEXEC")}, out: out, kind: kindFD}
}
