package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	hpcrun "hpcimg/runtime"
)

// openSession opens the session that --session names, or that the ranks of an
// MPI job share. A rank that cannot have one runs by itself, after a warning:
// MPI then copies messages twice. The flag can be given with nothing in it, as by
// a script with a variable that is not set.
func (f *flags) openSession(e *execFlags, given bool) (*hpcrun.Session, error) {
	tag := e.session
	if tag == "" && given {
		return nil, usagef("--session: an empty tag")
	}
	if tag == "" && (!e.mpi || e.containAll || e.dryRun) {
		return nil, nil
	}
	if e.containAll {
		return nil, usagef("--session: not with --containall, which gives each command its own processes")
	}
	if tag == "" || tag == "auto" {
		tag = jobStep(f.std)
	}
	session, err := hpcrun.OpenSession(f.sessionDir(), tag)
	if err != nil && e.session == "" {
		fmt.Fprintf(f.std.err, "hpcimg: warning: %v; ranks do not share their mounts\n", err)
		return nil, nil
	}
	return session, err
}

// sessionDir is a directory of this node that only this user can enter.
func (f *flags) sessionDir() string {
	if dir := f.std.getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return filepath.Join(dir, "hpcimg")
		}
	}
	return fmt.Sprintf("/dev/shm/hpcimg-%d", os.Geteuid())
}

// jobStep names what processes belong together that one launcher has started:
// a job step of Slurm or PALS, or else all children of one process.
func jobStep(std stdio) string {
	if job, step := std.getenv("SLURM_JOB_ID"), std.getenv("SLURM_STEP_ID"); job != "" && step != "" {
		return "slurm " + job + "." + step
	}
	if id := std.getenv("PALS_APID"); id != "" {
		return "pals " + id
	}
	parent := os.Getppid()
	return fmt.Sprintf("parent %d %s", parent, startTime(parent))
}

// startTime is when a process started, in ticks since the machine did: numbers
// of processes are used again. It is empty where that is not known.
func startTime(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The name may have spaces and parentheses; behind it are single words.
	const startField = 19
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) <= startField {
		return ""
	}
	return fields[startField]
}
