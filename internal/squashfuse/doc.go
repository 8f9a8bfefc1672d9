// Package squashfuse has the program squashfuse_ll serve a FUSE device that somebody else has opened and mounted.
//
//	program, err := squashfuse.Find(ctx, "")
//	server, err := program.Start(&squashfuse.Options{Device: dev, Image: image, Offset: offset})
//	dev.Close() // now the mount fails when the server does, instead of waiting
//	…
//	err = server.Wait() // when nobody has the device mounted any more, or with what the program says
//
// The mount is not the program's business: a child makes it, in namespaces of its own, and hands over the device. So the program
// needs no privileges, no fusermount3 and no mount point; it stays on the host, outside of all that the child makes. That takes
// libfuse 3.3 or later, which takes /dev/fd/N for a mount point.
//
// # What the program gets
//
// The device, the image, and a pipe for what it says; the null device for standard input and output. Other descriptors of the
// caller are closed, those that are meant for its children too (from Linux 5.11). Its environment is empty. It leads a session of its own, so that what a
// terminal sends to the container does not end the server of its image. It cannot gain privileges. Root's gets a mount namespace,
// in which whatever it mounted would stay.
//
// # How long it lives
//
// As long as the device is mounted, whoever started it: processes that have outlived the caller keep their files. The kernel ends
// the connection with the last mount, and the program with that.
package squashfuse
