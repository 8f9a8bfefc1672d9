package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// host is what a plan has to know about the machine and the process.
type host struct {
	uid, gid int
	groups   []int
	// admin: mounts need no user namespace. initial: this is the user namespace of the machine, where the kernel mounts
	// block file systems.
	admin, initial bool
	loop           bool // loop devices can be made
	setAttr        bool // mount_setattr works
	staging        string
	squashfs       func() bool // the kernel has it; who asks may have to wait for a module to be loaded
}

func inspect() (*host, error) {
	h := &host{uid: os.Geteuid(), gid: os.Getegid()}
	groups, err := os.Getgroups()
	if err != nil {
		return nil, err
	}
	h.groups = append([]int{h.gid}, groups...)
	var header unix.CapUserHeader
	var caps [2]unix.CapUserData
	header.Version = unix.LINUX_CAPABILITY_VERSION_3
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return nil, os.NewSyscallError("capget", err)
	}
	h.admin = caps[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
	mapping, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return nil, err
	}
	h.initial = strings.Join(strings.Fields(string(mapping)), " ") == "0 0 4294967295"
	if h.admin && h.initial {
		if f, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0); err == nil {
			h.loop = f.Close() == nil
		}
	}
	h.squashfs = func() bool { return kernelHas("squashfs") }
	// The call fails for want of a descriptor or of privileges that the child will have, or because it does not exist.
	err = unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{})
	h.setAttr = !errors.Is(err, unix.ENOSYS)
	h.staging, err = stagingDir()
	return h, err
}

// kernelHas says whether the kernel has a type of file system. Asking loads the module, where there is one.
func kernelHas(fstype string) bool {
	fd, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err == nil {
		_ = unix.Close(fd)
	}
	return !errors.Is(err, unix.ENODEV)
}

// stagingDir finds a directory to mount over while the image is put together. What it holds is bound by then.
func stagingDir() (string, error) {
	for _, dir := range []string{"/tmp", "/run", "/mnt", "/var/tmp"} {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil || strings.ContainsAny(real, `:,\`) {
			continue
		}
		if info, err := os.Stat(real); err == nil && info.IsDir() {
			return real, nil
		}
	}
	return "", errors.New("the host has none of /tmp, /run, /mnt and /var/tmp to mount on")
}

// memory returns the bytes that this process can still use, of the machine and of its control groups.
func memory() int64 { return memoryOf("/proc", "/sys/fs/cgroup") }

// memoryOf is memory for the file systems proc and cgroup.
func memoryOf(proc, cgroup string) int64 {
	available := int64(1) << 62
	data, err := os.ReadFile(filepath.Join(proc, "meminfo"))
	if err != nil {
		return available
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemAvailable:" {
			if kib, err := strconv.ParseInt(f[1], 10, 64); err == nil {
				available = kib << 10
			}
		}
	}
	own, err := os.ReadFile(filepath.Join(proc, "self/cgroup"))
	if err != nil {
		return available
	}
	for line := range strings.Lines(string(own)) {
		// hierarchy:controllers:group. Version 2 is hierarchy 0, without controllers.
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(f) < 3:
		case f[0] == "0" && f[1] == "":
			available = min(available, leftIn(cgroup, f[2], "memory.max", "memory.current"))
		case slices.Contains(strings.Split(f[1], ","), "memory"):
			available = min(available, leftIn(filepath.Join(cgroup, "memory"), f[2], "memory.limit_in_bytes", "memory.usage_in_bytes"))
		}
	}
	return available
}

// leftIn is what a control group and those above it leave. In a container the group may be named as the host sees it, and
// only the root be there.
func leftIn(root, group, limitName, usedName string) int64 {
	left := int64(1) << 62
	for group = filepath.Join("/", group); ; group = filepath.Dir(group) {
		limit, err := readNumber(filepath.Join(root, group, limitName))
		used, err2 := readNumber(filepath.Join(root, group, usedName))
		if err == nil && err2 == nil {
			left = min(left, max(0, limit-used))
		}
		if group == "/" {
			return left
		}
	}
}

func readNumber(name string) (int64, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
}
