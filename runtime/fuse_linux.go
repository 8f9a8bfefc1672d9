package runtime

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"hpcimg/internal/fork"
	"hpcimg/mount"
	"hpcimg/squashfs"
)

func (c *compiler) fuseDevice() string { return cmp.Or(c.spec.Image.FUSEDevice, "/dev/fuse") }

// serveImage prepares what this process serves: the image, and the mount points that it lacks. The tree, and with it what
// has been read, is shared by all commands of the plan; but where somebody is asked at each start, nothing is taken that was
// read before they have answered.
func (c *compiler) serveImage() error {
	c.plan.owner = c.owner()
	if !c.plan.served() {
		return nil
	}
	for _, e := range c.root.order {
		if e.repeated || c.plan.backend != BackendFUSE {
			continue
		}
		node := mount.Node{Path: e.rel, Mode: 0o644}
		if e.kind == nodeDir {
			node.Mode = fs.ModeDir | 0o755
		}
		c.plan.nodes = append(c.plan.nodes, node)
	}
	if c.plan.admit != nil {
		return nil
	}
	var err error
	c.plan.tree, err = c.plan.newTree(c.reader)
	return err
}

// newTree is what this process serves. The reader is that of the image, or nil if it is reached in another way.
func (p *Plan) newTree(r *squashfs.Reader) (*servedTree, error) {
	var tree mount.Tree
	if p.backend == BackendFUSE {
		tree = mount.NewTree(r, &mount.TreeOptions{Overlaid: true})
	}
	tree, err := p.join(tree)
	if err != nil || len(p.nodes) == 0 {
		return &servedTree{tree, r}, err
	}
	nodes := slices.Clone(p.nodes)
	if len(p.extras) > 0 {
		for i := range nodes {
			nodes[i].Path = rootName + "/" + nodes[i].Path
		}
	}
	tree, err = mount.WithNodes(tree, nodes)
	return &servedTree{tree, r}, err
}

// owner translates owners to those that exist in the user namespace of the command. Where that knows only one user, all is
// theirs, as if they had unpacked the image.
func (c *compiler) owner() func(uid, gid uint32) (uint32, uint32) {
	if !c.userNS() {
		return nil
	}
	own := [2]uint32{uint32(c.host.uid), uint32(c.host.gid)}
	var count [2]uint32
	if c.spec.Identity != IdentitySame {
		own = [2]uint32{}
		for i, ranges := range c.subIDs {
			for _, r := range ranges {
				count[i] += uint32(r.count)
			}
		}
	}
	return func(uid, gid uint32) (uint32, uint32) {
		if uid > count[users] {
			uid = own[users]
		}
		if gid > count[groups] {
			gid = own[groups]
		}
		if count == ([2]uint32{}) {
			return own[users], own[groups]
		}
		return uid, gid
	}
}

// fuse mounts at base what is served through the device dev, and hands that over. It was opened in the user namespace, which the
// kernel insists on, and before anything covered it.
func (e *emitter) fuse(dev fork.FD, base string) {
	uid, gid := e.host.uid, e.host.gid
	if e.spec.Identity != IdentitySame && e.userNS() {
		uid, gid = 0, 0
	}
	options := strings.TrimPrefix(mount.FuseData(0, uid, gid), "fd=0")
	e.add(
		fork.Mount(fork.At("hpcimg"), fork.At(base), "fuse", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, fork.At("fd="), fork.Number(dev), fork.At(options)),
		fork.SendFD("sync", dev),
		fork.Close(dev),
	)
}

// serveFUSE waits for the device and answers for the image from then on, until nobody has it mounted any more.
func (p *Plan) serveFUSE(ctx context.Context, r *resources, held *shared) error {
	dev, err := receive(ctx, r.parent)
	if err != nil {
		return err
	}
	if p.joined != nil {
		held.fuse, _ = cloneFUSE(dev) // without it, nobody can take over
	}
	return p.serveDevice(dev, r.served)
}

// serveDevice serves what made returns.
func (p *Plan) serveDevice(dev *os.File, made func() (*servedTree, error)) error {
	served, err := made()
	if err != nil {
		dev.Close()
		return err
	}
	s, err := mount.Serve(dev, served.tree, &mount.ServeOptions{Owner: p.owner, OnError: p.onError})
	if err != nil {
		dev.Close()
		return fmt.Errorf("serve the image: %w", err)
	}
	p.open.hold()
	go func() {
		_ = s.Wait()
		_ = p.open.letGo()
	}()
	return nil
}
