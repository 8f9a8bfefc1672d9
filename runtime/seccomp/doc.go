// Package seccomp compiles profiles of system calls into filters that the kernel runs: those of the OCI runtime specification
// (linux.seccomp), which Docker, Podman and Apptainer take, the default one of Podman and Docker included.
//
//	filter, err := seccomp.Compile(profile, nil)
//	…
//	spec.Seccomp = filter.Program
//
// # Rules
//
// A rule names system calls, and may have conditions on their arguments. Conditions on different arguments have to hold
// together; of several on one argument one is enough. Where several rules are about a call, the first with conditions that
// hold decides, then the strictest without conditions, then the default action. Rules for certain capabilities, machines
// and kernels (includes, excludes) count only where they apply, which Options says.
//
// Names that the machine does not know are ignored, as profiles are written for all machines. Those that no machine known here
// has, in a rule that forbids, are in Filter.Ignored.
//
// Calls by another machine's numbers, 32-bit ones and x32, fail with ENOSYS whatever the profile says: they would mean
// other calls. So 32-bit programs do not run.
//
// # Untrusted input
//
// A profile has at most 1 MiB, and a filter at most 4096 instructions, the kernel's own bound: *LimitError. A filter finds
// its rule by bisection, in about ten instructions.
//
// # Errors
//
// *FormatError says where something is wrong in a profile, and is ErrFormat. What a profile may have and this package does
// not, SCMP_ACT_NOTIFY and machines other than amd64 and arm64, is errors.ErrUnsupported.
//
// # Compatibility
//
// The package compiles for either machine on any. Filters run on Linux 4.14 and later.
package seccomp
