// Package mpi finds what MPI programs in an image need of the launcher that started them, and of the network.
//
//	spec.Injections = append(spec.Injections, mpi.Launcher(os.Environ(), nil))
//	spec.Injections = append(spec.Injections, mpi.Fabric(nil))
//
// A rank finds its place in the job through its launcher: PMI, over a descriptor that it inherits and variables (Slurm's
// pmi2, Hydra), or PMIx, over a socket and files in a directory of the node's daemon (Slurm's pmix, Open MPI, PALS).
// Launcher passes the variables on, even to a clean environment, and binds the directories that they name. Descriptors
// need no help: package runtime leaves those that it did not open alone.
//
// # What it takes to use shared memory
//
// Ranks of a node talk through /dev/shm and by copying from each other's memory. The first needs the host's /dev/shm; the
// second a common PID namespace, and a common user namespace, which every rank in a user namespace of its own lacks.
// Open MPI before 4.0.2 and UCX before 2023 do not notice, and hang or abort. For these a note of the injection names the
// variables that make them do without: PrivateUserNS has them.
//
// # Identity
//
// A PMIx server refuses clients with another user ID: runtime.IdentityRoot does not work under it.
//
// # Swapping the MPI library
//
// Using the host's MPI in place of the image's is not here yet.
package mpi
