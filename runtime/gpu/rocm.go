package gpu

import (
	"path/filepath"
	"slices"

	hpcrun "hpcimg/runtime"
)

// ROCmOptions are the options of ROCm.
type ROCmOptions struct {
	// Host is searched; the zero value is this one.
	Host Host
	// Libraries adds the host's user space, for images that have none of their own.
	Libraries bool
	// Env is the environment of the caller, whose variables for ROCm are passed on even to a clean one.
	Env []string
}

// ROCm returns what images need of the host's AMD GPUs. Without a driver the error is fs.ErrNotExist.
func ROCm(o *ROCmOptions) (hpcrun.Injection, error) {
	if o == nil {
		o = &ROCmOptions{}
	}
	h := o.Host
	inj := hpcrun.Injection{Name: "rocm"}
	if !h.exists("/dev/kfd") {
		return inj, absent("AMD GPU driver")
	}
	inj.Binds = h.binds(false, "/dev/kfd", "/dev/dri")
	if !h.exists("/dev/dri") {
		inj.Notes = append(inj.Notes, "there is no /dev/dri")
	}
	inj.Notes = append(inj.Notes, "the devices are open to the groups video and render")
	inj.Env = pass(o.Env, "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "HSA_*", "RCCL_*", "NCCL_*")
	if !o.Libraries {
		return inj, nil
	}
	names := []string{
		"libamd_comgr.so.2", "libamdhip64.so.6", "libamdocl64.so", "libdrm.so.2", "libdrm_amdgpu.so.1", "libhsa-runtime64.so.1",
		"libnuma.so.1", "libOpenCL.so.1", "libpci.so.3", "librocm_smi64.so.7", "librocm-core.so.1",
	}
	found := h.libraries(names...)
	for _, name := range names {
		file, ok := found[name]
		if !ok {
			continue
		}
		real, err := filepath.EvalSymlinks(h.path(file))
		if err != nil {
			continue
		}
		lib := hpcrun.Library{Source: real, Names: []string{filepath.Base(real)}}
		if !slices.Contains(lib.Names, name) {
			lib.Names = append(lib.Names, name)
		}
		inj.Libraries = append(inj.Libraries, lib)
	}
	inj.Binds = append(inj.Binds, h.binds(true, "/usr/bin/rocm-smi", "/usr/bin/rocminfo", "/etc/OpenCL/vendors/amdocl64.icd")...)
	return inj, nil
}
