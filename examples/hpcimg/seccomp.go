package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"hpcimg/runtime/seccomp"
)

// maxFilter bounds a file with a profile, or with a compiled filter.
const maxFilter = 1 << 20

// filter is what --seccomp or --security asks for.
func (f *flags) filter(e *execFlags) ([]byte, error) {
	path := e.seccomp
	for _, flag := range e.security {
		file, ok := strings.CutPrefix(flag, "seccomp:")
		if !ok || file == "" {
			return nil, usagef("--security %s: only seccomp:FILE", flag)
		}
		if path != "" {
			return nil, usagef("--security %s: there is a filter already, %s", flag, path)
		}
		path = file
	}
	if path == "" {
		return nil, nil
	}
	data, err := readSmall(path, maxFilter)
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		return data, nil
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease") // unknown if it cannot be read
	filter, err := seccomp.Compile(data, &seccomp.Options{Capabilities: capabilities(e.fakeroot), Kernel: strings.TrimSpace(string(release))})
	if errors.Is(err, seccomp.ErrFormat) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err != nil {
		return nil, err
	}
	if len(filter.Ignored) > 0 && !f.quiet {
		fmt.Fprintf(f.std.err, "hpcimg: warning: %s: no such system calls: %s\n", path, printable(strings.Join(filter.Ignored, ", ")))
	}
	return filter.Program, nil
}

// capabilityNames are in the order of their numbers.
const capabilityNames = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE " +
	"NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT " +
	"SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG " +
	"WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"

// capabilities are those that a command has: this process's own, or all if it is root of a user namespace.
func capabilities(all bool) []string {
	var have uint64
	if all {
		have = ^uint64(0)
	} else if status, err := os.ReadFile("/proc/self/status"); err == nil {
		for line := range strings.Lines(string(status)) {
			if digits, ok := strings.CutPrefix(line, "CapEff:"); ok {
				have, _ = strconv.ParseUint(strings.TrimSpace(digits), 16, 64)
			}
		}
	}
	var names []string
	for i, name := range strings.Fields(capabilityNames) {
		if have&(1<<i) != 0 {
			names = append(names, "CAP_"+name)
		}
	}
	return names
}

// readSmall reads a file of at most limit bytes.
func readSmall(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s: more than %d bytes", path, limit)
	}
	return data, err
}
