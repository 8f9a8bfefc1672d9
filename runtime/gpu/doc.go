// Package gpu finds what the GPUs of a host need in an image: device nodes, the driver's libraries and programs, sockets of
// its daemons, and variables.
//
//	inj, err := gpu.NVIDIA(&gpu.NVIDIAOptions{Env: os.Environ()})
//	if err != nil {
//		return err // no driver here: errors.Is(err, fs.ErrNotExist)
//	}
//	spec.Injections = append(spec.Injections, inj)
//
// An Injection is data: package runtime binds it, and a dry run shows it.
//
// # NVIDIA
//
// The user space of the driver has to be of the same version as its kernel module, so it comes from the host: every library
// whose name ends in the version of the driver, in the directories where the linker's cache has libcuda.so.1. Libraries
// for other machines are left out by their ELF headers. They appear in runtime.LibDir under their file name, SONAME and
// the development names that programs open. Images keep their own CUDA.
//
// The device node /dev/nvidia-uvm may not exist before the first use of the driver after boot; nvidia-modprobe makes it, as
// root, on the host. A note of the injection says so.
//
// # ROCm
//
// The user space of ROCm is in the image and only needs the nodes /dev/kfd and /dev/dri. Access to them goes by groups,
// video and render, which a user namespace keeps but shows as nobody's.
//
// # Untrusted input
//
// Nothing of the image is read or executed, and no program of the host either: no ldconfig, no nvidia-container-cli. What
// an image could do to the paths at which things are bound is package runtime's concern.
//
// # Testing without a GPU
//
// Host.Root makes any directory the host.
package gpu
