package mpi

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	hpcrun "hpcimg/runtime"
)

// Host is where directories and devices are looked for.
type Host struct {
	// Root is a directory that stands for / of the host; empty means /.
	Root string
}

func (h *Host) path(name string) string {
	if h == nil {
		return name
	}
	return filepath.Join("/", h.Root, name)
}

// binds are binds of what exists among names and patterns.
func (h *Host) binds(patterns ...string) []hpcrun.Bind {
	var binds []hpcrun.Bind
	prefix := strings.TrimSuffix(h.path("/"), "/")
	for _, p := range patterns {
		matches, _ := filepath.Glob(h.path(p)) // the patterns are well-formed
		for _, m := range matches {
			binds = append(binds, hpcrun.Bind{Source: m, Target: filepath.Join("/", strings.TrimPrefix(m, prefix))})
		}
	}
	return binds
}

func (h *Host) isDir(name string) bool {
	info, err := os.Stat(h.path(name))
	return err == nil && info.IsDir()
}

// passed are the variables of launchers, MPI libraries and networks; a prefix ends in *.
var passed = []string{
	"SLURM_*", "SLURMD_*", "PALS_*", "PMI_*", "PMIX_*", "OMPI_*", "PRTE_*", "MPICH_*", "MPIR_CVAR_*", "FI_*", "UCX_*", "I_MPI_*",
	"HYDI_CONTROL_FD", "HYDRA_*", "MPI_LOCALNRANKS", "MPI_LOCALRANKID", "PSM2_*", "NCCL_*", "MV2_*", "OMP_*", "FLUX_*",
}

// Launcher returns what the launcher of this process has left for its ranks: variables of env, and directories of the host
// that they name. Outside of a job it is empty but for variables of libraries. A nil host is this one.
func Launcher(env []string, host *Host) hpcrun.Injection {
	inj := hpcrun.Injection{Name: "mpi"}
	vars := make(map[string]string)
	for _, kv := range env {
		name, value, ok := strings.Cut(kv, "=")
		if ok && matches(name) {
			vars[name] = value
			inj.Env = append(inj.Env, kv)
		}
	}
	if kind := launcher(vars); kind != "" {
		inj.Notes = append(inj.Notes, "started by "+kind)
		inj.Binds = append(inj.Binds, host.binds("/dev/shm")...)
	}
	// Names of the client differ from those of Slurm's server: without them the client picks other modules and fails.
	for _, t := range [][2]string{{"PMIX_PTL_MODULE", "PMIX_MCA_ptl"}, {"PMIX_SECURITY_MODE", "PMIX_MCA_psec"}, {"PMIX_GDS_MODULE", "PMIX_MCA_gds"}} {
		if value, ok := vars[t[0]]; ok && vars[t[1]] == "" {
			inj.Env = append(inj.Env, t[1]+"="+value)
		}
	}
	if strings.Contains(vars["PMIX_SECURITY_MODE"], "munge") {
		inj.Binds = append(inj.Binds, host.binds("/run/munge")...)
	}
	var dirs []string
	for _, name := range []string{
		"PMIX_SERVER_TMPDIR", "PALS_SPOOL_DIR", "OMPI_FILE_LOCATION", "PMIX_SYSTEM_TMPDIR", "OMPI_MCA_orte_jobfam_session_dir", "FLUX_JOB_TMPDIR",
	} {
		dir := filepath.Clean(vars[name])
		if !filepath.IsAbs(dir) || dir == "/" || slices.Contains(dirs, dir) {
			continue
		}
		if !host.isDir(dir) {
			inj.Notes = append(inj.Notes, name+" names "+dir+", which is no directory here")
			continue
		}
		dirs = append(dirs, dir)
		inj.Binds = append(inj.Binds, hpcrun.Bind{Source: host.path(dir), Target: dir})
	}
	return inj
}

func matches(name string) bool {
	return slices.ContainsFunc(passed, func(p string) bool {
		prefix, isPrefix := strings.CutSuffix(p, "*")
		return name == p || isPrefix && strings.HasPrefix(name, prefix)
	})
}

// launcher names who started this process, or nothing.
func launcher(vars map[string]string) string {
	has := func(name string) bool { return vars[name] != "" }
	switch {
	case has("PALS_RANKID"):
		return "PALS"
	case has("PMIX_RANK") && has("SLURM_STEP_ID"):
		return "Slurm with PMIx"
	case has("OMPI_COMM_WORLD_RANK"):
		return "Open MPI's mpirun"
	case has("PMIX_RANK"):
		return "a PMIx launcher"
	case has("PMI_FD") && has("SLURM_STEP_ID"):
		return "Slurm with PMI2"
	case has("PMI_FD"), has("PMI_RANK"):
		return "a PMI launcher"
	case has("SLURM_STEP_ID") && has("SLURM_PROCID"):
		return "Slurm without PMI"
	}
	return ""
}

// PrivateUserNS returns variables that make MPI libraries do without copying from the memory of ranks in other user
// namespaces. Set them where each rank has a namespace of its own; they cost bandwidth within a node.
func PrivateUserNS() []string {
	return []string{
		"OMPI_MCA_btl_vader_single_copy_mechanism=none",
		"OMPI_MCA_btl_sm_use_cma=0",
		"UCX_POSIX_USE_PROC_LINK=n",
		"UCX_TLS=^cma",
		"MPICH_SMP_SINGLE_COPY_MODE=NONE",
		"PSM2_KASSIST_MODE=none",
	}
}

// Fabric returns the devices, and the descriptions of providers, of high-speed networks that the host has. It matters to
// contained images; others see the host's /dev. A nil host is this one.
func Fabric(host *Host) hpcrun.Injection {
	return hpcrun.Injection{Name: "fabric", Binds: host.binds(
		"/dev/infiniband", "/dev/hfi1_*", "/dev/cxi*", "/dev/ss0", "/dev/xpmem", "/dev/knem", "/dev/gdrdrv", "/dev/hugepages", "/etc/libibverbs.d",
	)}
}
