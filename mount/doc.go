// Package mount mounts squashfs images read-only, and tells what a host allows.
//
// An image is a file, or a part of one: the primary partition of a SIF is a squashfs image at an offset. What root mounts is
// mounted by system calls of this process, without mount(8) or losetup(8).
//
//	m, err := mount.Image(ctx, "image.sif", "/mnt", &mount.ImageOptions{FuseOptions: mount.FuseOptions{Options: …}})
//	…
//	err = mount.Unmount("/mnt")
//
// A program that wants to run something in an image needs no mount of this package: package runtime makes its mounts in a
// mount namespace which ends with the process.
//
// # Serving
//
// A [Tree] is a file system by nodes. [NewTree] makes one of a squashfs reader, [WithNodes] adds files to any, and [Serve]
// answers the kernel's requests for it through an open /dev/fuse. Whoever mounts that, as root or in a user namespace of its
// own, hands the descriptor over; no setuid helper takes part.
//
//	tree := mount.NewTree(reader, nil)
//	server, err := mount.Serve(dev, tree, nil)
//	…
//	err = server.Wait() // until the mount is gone
//
// Kernels keep names, attributes and contents, for which the server tells them that nothing will change; what is left are
// first reads. Each thread reads requests from a clone of the device and sends decoded blocks without copying them. Blocks
// are decoded once, ahead of a sequential reader, and kept in a cache of fixed size outside the heap. A server without
// requests takes no processor time.
//
// # Backends
//
// [Image] tries what there is, best first, and says which it was and why. The kernel's own squashfs over a loop device needs root
// (CAP_SYS_ADMIN in the initial user namespace): kernels refuse block file systems to everybody else, in user namespaces
// too. Our server ([Fuse]) works for everybody; an ordinary user's mount in the initial namespace is made by the set-uid
// program fusermount3. squashfuse_ll is the third. [Squashfs] is the kernel alone, without a check of the image.
// Kernels since 5.2 make a mount before it gets a place ([Detached]), and say why they refuse an image; older ones do both at once.
//
// # Loop devices
//
// Devices are read-only and clear themselves: when the last user, a mount or the LoopDevice, is gone, so is the binding,
// even after SIGKILL. A device that another process takes between finding and binding it is tried again.
//
// # Probe
//
// Probe tries what package runtime and this one need, each in a child that is thrown away, and reports what does not work,
// why, and what an administrator or user can do about it. It leaves nothing behind on the host.
//
// # Untrusted input
//
// The kernel parses what it mounts, and its squashfs code is no sandbox. Image lets it see only images whose tables
// package squashfs has found sound; as their owner can change them afterwards, that is no protection from him. Our server
// checks every reference when it follows it. What is damaged is EIO for the process that reads it, and told to the caller
// with the place of the block. Mounts are nosuid and nodev.
//
// # Errors
//
// A system call that fails is an *fs.PathError whose Op is the name of the call; *Error collects what was tried.
//
// # Compatibility
//
// Linux 5.8 and later bind a loop device in one call, earlier ones in two. Other systems build the package; Probe says
// that they are not supported, and everything else returns errors.ErrUnsupported.
package mount
