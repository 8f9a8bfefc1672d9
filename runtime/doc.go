// Package runtime runs commands in container images: Spec → Plan → Process.
//
//	spec := &hpcrun.Spec{
//		Image: hpcrun.Image{Path: "app.sif", Offset: partition.Offset, Size: partition.Size},
//		Args:  []string{"python3", "train.py"},
//		Env:   hpcrun.Environment(hpcrun.EnvInput{Host: os.Environ(), Image: config.Env, Home: home}),
//	}
//	cmd := hpcrun.NewCmd(spec)
//	cmd.Stdout = os.Stdout
//	err := cmd.Run(ctx)
//	os.Exit(hpcrun.ExitCode(err))
//
// Compile checks a Spec against host and image and turns it into a Plan, a table of system calls. Plan.String prints it:
// that is the dry run, and it is exact. Start makes a child that makes the calls of the table, in its own mount namespace, and
// executes the command: a program generated into memory, or a fork where hosts forbid that (Executor; package internal/fork
// has the how). The function Start does both, and joins a session without a plan. No helper program (but squashfuse_ll, for
// who asks for it), no setuid, no cgo, no second start of the
// caller's program.
//
// The package's name shadows one of the standard library: import it as hpcrun.
//
// # Backends
//
//	directory   a directory is bound
//	kernel      a squashfs image is mounted by the kernel over a loop device: root only
//	fuse        a squashfs image is served by this process, through /dev/fuse and without a helper
//	squashfuse  a squashfs image is served by squashfuse_ll of the host, through /dev/fuse and without fusermount3: on request only
//	extract     a squashfs image is unpacked, into memory of the mount namespace, or into a temporary directory
//
// BackendAuto takes the first that works for the image and the user, and Plan.String says why, and why not those before it. The kernel
// and squashfuse_ll get images whose tables are in order only (squashfs.Check), unless they are Trusted. The root directory is read-only, nosuid and nodev.
// Mount points that an image lacks are made in an overlay in front of it; the image is never written to. Overlay makes the
// root directory writable, in memory or in a directory, or lays directories and further images over the image. Parts of images
// can be bound (Bind.ImageDir); what is not the image itself is always served through FUSE. What is served is seen through a
// read-only overlay, where the kernel makes one: that spares the server questions which no file system can answer once for all. A
// character device 0:0 of such an image has the number 0:1, since it would be the absence of a file to overlays.
//
// # What the image sees of the host
//
// By default what users of Apptainer expect: /proc, /sys, /dev, /tmp, /var/tmp, the home directory and HostDir, name
// service files of /etc, and a line for the user in /etc/passwd and /etc/group. Contain and Omit restrict that. Mounts that
// the host makes later, such as automounts, appear inside as well.
//
// # Privileges
//
// Ordinary users need user namespaces; mount.Probe says whether they have them. Inside, a user keeps the user ID that
// they have, without any capability, or is root of a namespace in which nobody else exists (IdentityRoot), or only subordinate users (IdentityRootRange). Root needs no
// user namespace and keeps its capabilities. No command gains privileges by set-id programs (no_new_privs).
//
// # What is left behind
//
// Nothing: mounts, unpacked images in memory and loop devices go with the last process in the namespace. The command is
// killed when this process ends, however that ends; its own children are only if it has a PID namespace. A temporary
// directory of ExtractDir is removed when the command ends, and stays if this process is killed.
//
// # Untrusted input
//
// Symbolic links of the image are followed within the image only, when planning and once more by the kernel
// (RESOLVE_IN_ROOT) when mounting, and when changing to the working directory. A directory may change at any moment of that.
// Files of the image that are read are regular ones of at most 1 MiB, others are not even opened. Variables go to the
// command as they are; no shell sees them. Descriptors of the caller that are close-on-exec stay out, the others are
// passed on under the same numbers: launchers of MPI jobs rely on it. Through one of a directory a command reaches the host, so
// ContainAll passes on none but the standard ones. A running command is as trustworthy as the image: this package protects the
// host's files and the users of the host by the kernel's means, not the user's own files, which are bound, from the image. A
// process in an image cannot pose as the leader of a session, nor look into those that join.
//
// # Errors
//
// *SetupError names the system call that failed, with an *fs.PathError where it concerns a file; *BindError the bind;
// *MemoryError what does not fit, *LimitError a limit that only root can raise. ExitCode turns any error into the code that a command line tool should exit with.
//
// # Concurrency
//
// Compile, Plan and Process may be used by many goroutines, a Cmd by one at a time. Each process occupies one thread.
//
// # Compatibility
//
// Linux 5.6 or later, and 5.11 for mount points that are missing in an image that an ordinary user runs from a directory.
// Other systems build the package; Compile returns errors.ErrUnsupported there.
package runtime
