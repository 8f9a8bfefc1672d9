// Package fork runs a table of system calls in a forked child of a Go process, the last of which executes a program.
//
// A Go process is never single-threaded, and a few system calls demand a process that is: unshare(CLONE_NEWUSER) and setns
// into a user namespace. Others must happen between those and the execution of the program: mounts in its mount namespace.
// os/exec offers neither. What it does offer, running this program again as a second stage, makes every program that
// imports a library start twice. So the child here is a plain copy of the process (fork, not vfork) in which no Go code
// runs but one loop: it does not call the runtime, allocate, or grow its stack, and it makes the calls of a table which
// the parent prepared to the last byte.
//
//	calls := []fork.Call{
//		fork.Unshare(unix.CLONE_NEWUSER | unix.CLONE_NEWNS),
//		fork.Open(fork.CWD, "/proc/self/uid_map", unix.O_WRONLY, 0, "map"),
//		fork.Write("map", []byte("1000 1000 1\n")),
//		…
//		fork.Exec([]string{"/bin/true"}, argv, env),
//	}
//	child, err := fork.Start(calls, nil)
//
// # Descriptors
//
// A call names descriptors by symbols of type FD. Start gives each symbol a number before it forks, by occupying that
// number in the parent; so "/proc/self/fd/N" can stand in an argument before the descriptor exists, and no number that
// the process has inherited for its children (PMI_FD, a job server) is ever overwritten.
//
// # Failure
//
// The first call that fails ends the child. Its index and error number come back over a pipe that closes itself when the
// program is executed, and Child.Ready returns them as an *Error. Nothing needs undoing: what a table mounts lives in the
// namespace of the child.
//
// # Signals
//
// All signals are blocked while the table runs, so that no handler of the Go runtime can run in the child. Handlers are
// reset and ignored signals stay ignored; RestoreSignals, the last call but one of every table, restores the mask.
//
// # Threads
//
// A parent death signal (PDeathSig) is sent when the thread that forked ends. Call Start from a goroutine that is locked
// to its thread and stays so until the child has been waited for.
//
// # Executors
//
// Copying page tables grows with the memory of the caller: 0.5 ms for a small process, about 25 ms for each gigabyte in
// use. The table is plain data, so ExecutorMemfd writes it into an ELF file in memory, together with the loop as a program of
// its own (assembly, amd64 and arm64, 300 bytes), seals that and lets package syscall start it, which shares memory with
// the child until it executes. That is the default where it works.
package fork
