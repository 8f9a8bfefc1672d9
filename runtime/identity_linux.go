package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"hpcimg/internal/fork"
)

// idRange are subordinate users or groups.
type idRange struct{ start, count int }

// Index of what concerns users and groups.
const (
	users = iota
	groups
)

// The tools that may map more than one id, and where the ranges are that they allow.
var (
	mapTools = [2]string{"newuidmap", "newgidmap"}
	subFiles = [2]string{"/etc/subuid", "/etc/subgid"}
)

// identity decides which ids are mapped.
func (c *compiler) identity() {
	if c.spec.Identity != IdentityRootRange {
		return
	}
	var err error
	if !c.userNS() || c.host.admin {
		err = errors.New("root needs none")
	}
	for i := range subFiles {
		if err == nil {
			_, err = findMapTool(i)
		}
		if err == nil {
			c.subIDs[i], err = subordinate(subFiles[i], hostUser(c.host.uid, c.host.gid).Name, c.host.uid)
		}
	}
	if err != nil {
		c.note("no subordinate users and groups: %v", err)
		c.spec.Identity, c.subIDs = IdentityRoot, [2][]idRange{}
	}
}

// mapIDs maps users and groups. More than the own ones may be mapped by privileged tools only, which the parent runs while
// the child waits.
func (e *emitter) mapIDs() {
	switch e.spec.Identity {
	case IdentityRootRange:
		e.add(fork.Write("sync", []byte{0}), fork.ReadByte("sync"))
		for i := range e.subIDs {
			e.plan.idMaps[i] = idMap([]int{e.host.uid, e.host.gid}[i], e.subIDs[i])
		}
	case IdentityRoot:
		e.add(fork.SingleMapping(0, 0, e.host.uid, e.host.gid)...)
	default:
		e.add(fork.SingleMapping(e.host.uid, e.host.gid, e.host.uid, e.host.gid)...)
	}
}

// idMap are the arguments of newuidmap: 0 is own, and the ranges follow.
func idMap(own int, ranges []idRange) []string {
	args := []string{"0", strconv.Itoa(own), "1"}
	next := 1
	for _, r := range ranges {
		args = append(args, strconv.Itoa(next), strconv.Itoa(r.start), strconv.Itoa(r.count))
		next += r.count
	}
	return args
}

// subordinate reads the ranges of a user, NAME:START:COUNT, where the name may be the number.
func subordinate(file, name string, uid int) ([]idRange, error) {
	const maxRanges = 32 // more would not be a sane map, nor fit the kernel's older limit of 5 times over
	data, err := readHostFile(file)
	if err != nil {
		return nil, err
	}
	var ranges []idRange
	for line := range bytes.Lines(data) {
		f := strings.Split(strings.TrimSpace(string(line)), ":")
		if len(f) != 3 || f[0] != name && f[0] != strconv.Itoa(uid) {
			continue
		}
		start, err := strconv.ParseUint(f[1], 10, 32)
		count, err2 := strconv.ParseUint(f[2], 10, 31)
		if err == nil && err2 == nil && count > 0 && start+count <= 1<<32 && len(ranges) < maxRanges {
			ranges = append(ranges, idRange{int(start), int(count)})
		}
	}
	if len(ranges) == 0 {
		return nil, &fs.PathError{Op: "read", Path: file, Err: fmt.Errorf("no line for %s", name)}
	}
	return ranges, nil
}

// findMapTool looks where distributions put the tool: this process has no say in which file gets to be privileged.
func findMapTool(i int) (string, error) {
	for _, dir := range []string{"/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin"} {
		name := filepath.Join(dir, mapTools[i])
		if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return name, nil
		}
	}
	return "", &fs.PathError{Op: "find", Path: mapTools[i], Err: fs.ErrNotExist}
}

// applyMaps waits until the child has its user namespace and runs the tools.
func (p *Plan) applyMaps(ctx context.Context, pid int, socket *os.File) error {
	if err := await(ctx, socket); err != nil {
		return err
	}
	for i := range p.idMaps {
		tool, err := findMapTool(i)
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, tool, slices.Concat([]string{strconv.Itoa(pid)}, p.idMaps[i])...)
		cmd.Env = []string{}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s (is it set-uid root, and does %s have a line for this user?)", tool, err, bytes.TrimSpace(out), subFiles[i])
		}
	}
	return goOn(socket)
}
