package image_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"hpcimg/internal/oracle"
)

// TestNodes: eight nodes, each with namespaces of its own for the network, host name and process ids, share a directory and nothing
// else. One of them downloads.
func TestNodes(t *testing.T) {
	reg, socket := newCountingSocket(t)
	dir := filepath.Join(t.TempDir(), "cache")
	n := 8
	if *long {
		n = 16
	}
	if *long {
		t.Run("leader dies", nodeDies)
	}
	var nodes []*exec.Cmd
	for range n {
		nodes = append(nodes, node(t, puller{Ref: "docker://127.0.0.1:5000/a/b:v1", Dir: dir, Times: 5, Socket: socket}))
	}
	crowd(t, nodes)
	reg.servedOnce(t)
	checkCache(t, dir, reg.image)
}

// nodeDies: when the node that downloads dies, another one goes on where it stopped, as soon as the lease is stale.
func nodeDies(t *testing.T) {
	reg, socket := newCountingSocket(t)
	dir := filepath.Join(t.TempDir(), "cache")
	reg.hold = 2<<20 + 5
	p := puller{Ref: "docker://127.0.0.1:5000/a/b:v1", Dir: dir, Times: 1, Socket: socket}
	first := node(t, p)
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	<-reg.held
	waitForSums(t, dir, 2)
	_ = first.Process.Kill()
	_ = first.Wait()
	reg.mu.Lock()
	reg.hold = 0
	reg.mu.Unlock()
	started := time.Now()
	crowd(t, []*exec.Cmd{node(t, p), node(t, p)})
	d := reg.image.Layers()[0].Descriptor
	reg.mu.Lock()
	defer reg.mu.Unlock()
	if twice := reg.given[d.Digest.String()] - d.Size; twice > 1<<20 {
		t.Errorf("%d bytes were downloaded twice", twice)
	}
	t.Logf("others went on after %s", time.Since(started))
	checkCache(t, dir, reg.image)
}

// newCountingSocket is a counting registry that listens on a socket in the file system: nodes have no network.
func newCountingSocket(t *testing.T) (*counting, string) {
	t.Helper()
	reg := newCounting(t, crowdLayers()...)
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: reg}}
	s.Start()
	t.Cleanup(s.Close)
	return reg, socket
}

// node makes a process one on another machine.
func node(t *testing.T, p puller) *exec.Cmd {
	t.Helper()
	cmd := p.command(t)
	flags := uintptr(syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	if os.Geteuid() != 0 {
		oracle.UserNS(t)
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
	}
	return cmd
}
