//go:build linux

package conformance_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"hpcimg/convert"
	"hpcimg/internal/oracle"
)

// member is one process of many that want the same image.
type member struct {
	cmd          *exec.Cmd
	dst          string
	out, problem bytes.Buffer
}

func (s *subject) member(t *testing.T, dst string, args ...string) *member {
	t.Helper()
	m := &member{dst: dst, cmd: exec.Command(commandLine(t), append([]string{"convert", "-q", "--json", s.reference(), dst}, args...)...)}
	m.cmd.Stdout, m.cmd.Stderr = &m.out, &m.problem
	return m
}

// crowd runs all at once, checks what each has made, and returns how many times a layer was compressed.
func (s *subject) crowd(t *testing.T, members []*member) (compressed int) {
	t.Helper()
	for _, m := range members {
		if err := m.cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range members {
		if err := m.cmd.Wait(); err != nil {
			t.Errorf("%v: %s", err, m.problem.String())
			continue
		}
		s.check(t, m.dst)
		var result convert.Result
		if err := json.Unmarshal(m.out.Bytes(), &result); err != nil {
			t.Fatalf("%v: %s", err, m.out.String())
		}
		for _, l := range result.Layers {
			if l.SegmentFrom == convert.OriginSource {
				compressed++
			}
		}
	}
	return compressed
}

// TestCrowd: 64 processes that ask for one image at once get the same bytes, and the work is done once.
func TestCrowd(t *testing.T) {
	s := makeSubject(t)
	dir, cacheDir := t.TempDir(), filepath.Join(t.TempDir(), "cache")
	var members []*member
	for i := range 64 {
		members = append(members, s.member(t, filepath.Join(dir, fmt.Sprintf("out-%d.sif", i)), "--cache-dir", cacheDir))
	}
	if n := s.crowd(t, members); n != 3 {
		t.Errorf("%d layers were compressed, of an image that has 3", n)
	}
	checkCache(t, cacheDir)
}

// TestOneDestination: processes that make the same file leave that file, whoever is first, and the others are told or replace it.
func TestOneDestination(t *testing.T) {
	s := makeSubject(t)
	dir := t.TempDir()
	dst := filepath.Join(dir, "out.sif")
	var members []*member
	for range 8 {
		members = append(members, s.member(t, dst, "--no-cache", "--force"))
	}
	s.crowd(t, members)
	onlyFiles(t, dir, "out.sif")
}

// TestNodes converts on two nodes that share a cache: process ids and mounts of one mean nothing to the other, and one's process has the
// number of the other's.
func TestNodes(t *testing.T) {
	oracle.Root(t)
	s := makeSubject(t)
	hostname := oracle.Tool(t, "hostname")
	dir, cacheDir := t.TempDir(), filepath.Join(t.TempDir(), "cache")
	rounds := 2
	if *long {
		rounds = 20
	}
	for round := range rounds {
		if err := os.RemoveAll(cacheDir); err != nil {
			t.Fatal(err)
		}
		var members []*member
		for node := range 2 {
			for i := range 3 {
				m := s.member(t, filepath.Join(dir, fmt.Sprintf("out-%d-%d-%d.sif", round, node, i)), "--cache-dir", cacheDir)
				script := fmt.Sprintf(`%s node%d && mount -t proc proc /proc && exec "$@"`, hostname, node)
				args := append([]string{"sh", "-c", script, "sh"}, m.cmd.Args...)
				m.cmd.Path, m.cmd.Args = oracle.Tool(t, "sh"), args
				m.cmd.SysProcAttr = &syscall.SysProcAttr{
					Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC, Unshareflags: syscall.CLONE_NEWNS,
				}
				members = append(members, m)
			}
		}
		// A lease only saves work; here nobody can tell whether its owner is alive.
		t.Logf("%d times a layer was compressed", s.crowd(t, members))
	}
	checkCache(t, cacheDir)
}
