package mount_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"hpcimg/internal/testtree"
	"hpcimg/mount"
	"hpcimg/squashfs"
)

// request builds a message: a header and a body.
func request(op uint32, unique, node uint64, body ...any) []byte {
	b := make([]byte, 40)
	for _, part := range body {
		switch v := part.(type) {
		case string:
			b = append(append(b, v...), 0)
		case uint64:
			b = binary.NativeEndian.AppendUint64(b, v)
		case uint32:
			b = binary.NativeEndian.AppendUint32(b, v)
		}
	}
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint32(b[4:], op)
	binary.NativeEndian.PutUint64(b[8:], unique)
	binary.NativeEndian.PutUint64(b[16:], node)
	return b
}

func readRequest(node, off uint64, size uint32) []byte {
	return request(15, 3, node, uint64(0), off, size, uint32(0), uint64(0), uint32(0), uint32(0))
}

func listRequest(op uint32, node, off uint64, size uint32) []byte {
	return request(op, 4, node, uint64(0), off, size, uint32(0), uint64(0), uint32(0), uint32(0))
}

func smallTree() testtree.Tree {
	return testtree.Tree{
		testtree.Dir(".", 0o755),
		testtree.File("f", 0o644, testtree.Text(1, 20_000), testtree.Xattr("user.a", "b")),
		testtree.File("tail", 0o644, testtree.Text(2, 5_000)),
		testtree.File("hole", 0o644, append(testtree.Zeros(9000), 'x')),
		testtree.Symlink("l", "f"),
		testtree.Dir("d", 0o755),
		testtree.Char("d/null", 0o666, 1, 3),
	}
}

// writeImage makes an image of a tree.
func writeImage(t testing.TB, tree testtree.Tree, o *squashfs.WriterOptions) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image.sqfs")
	err := squashfs.Create(t.Context(), image, o, func(ctx context.Context, w *squashfs.Writer) error {
		return w.FromTar(ctx, bytes.NewReader(tree.Tar(nil)), nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func openImage(t testing.TB, path string) *squashfs.Reader {
	t.Helper()
	r, err := squashfs.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// sample has a file of each kind, hard links, xattrs, holes and a directory of several metadata blocks.
func sample() testtree.Tree {
	tree := testtree.Tree{
		testtree.Dir(".", 0o755),
		testtree.Dir("a", 0o755),
		testtree.Dir("a/empty", 0o711),
		testtree.File("a/zero", 0o644, ""),
		testtree.File("a/one", 0o640, "1", testtree.Owner(12, 34)),
		testtree.File("a/big", 0o644, testtree.Text(1, 3_000_000)),
		testtree.File("a/noise", 0o755, testtree.Bytes(1, 300_001)),
		testtree.File("a/holes", 0o644, append(testtree.Zeros(500_000), "end"...)),
		testtree.File("a/attrs", 0o4755, "x", testtree.Xattr("user.one", "1"), testtree.Xattr("trusted.two", "22")),
		testtree.Symlink("a/link", "one"),
		testtree.Symlink("a/dangling", "../no/such"),
		testtree.Symlink("a/loop", "loop"),
		testtree.Hardlink("a/hard", "a/one"),
		testtree.Char("a/null", 0o666, 1, 3),
		testtree.Dir("many", 0o755),
	}
	for i := range 700 {
		name := filepath.Join("many", string(rune('a'+i%26))+"-a-rather-long-name-"+string(testtree.Text(uint64(i), 3)[:0])+itoa(i))
		tree = append(tree, testtree.File(name, 0o644, testtree.Text(uint64(i), i)))
	}
	return tree
}

func itoa(i int) string {
	return string([]byte{byte('0' + i/100), byte('0' + i/10%10), byte('0' + i%10)})
}

// TestAnswerRead reads at all kinds of offsets and compares with the contents.
func TestAnswerRead(t *testing.T) {
	tree := mount.NewTree(openImage(t, writeImage(t, smallTree(), &squashfs.WriterOptions{BlockSize: 4096})), nil)
	a := mount.NewAnswerer(tree, nil)
	for name, want := range map[string][]byte{
		"f": testtree.Text(1, 20_000), "tail": testtree.Text(2, 5_000), "hole": append(testtree.Zeros(9000), 'x'),
	} {
		node, err := find(tree, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, off := range []int{0, 1, 4095, 4096, 8191, 9000, len(want) - 1, len(want), len(want) + 5} {
			for _, size := range []int{0, 1, 4096, 5000, 1 << 20} {
				out := a.Answer(readRequest(a.WireNode(node), uint64(off), uint32(size)))
				expected := want[min(off, len(want)):min(off+size, len(want))]
				if len(out) < 16 || binary.NativeEndian.Uint32(out[4:]) != 0 || !bytes.Equal(out[16:], expected) {
					t.Errorf("%s: %d bytes at %d: reply of %d, want %d", name, size, off, len(out), 16+len(expected))
				}
			}
		}
	}
	if n := mount.Held(tree); n != 0 {
		t.Errorf("%d blocks are still in use", n)
	}
}

// FuzzAnswer sends arbitrary messages to a server over an arbitrary image. Any reply is one that a kernel takes: its length is
// right, it answers what was asked, it is no longer than asked for, and no block stays in use.
func FuzzAnswer(f *testing.F) {
	image := filepath.Join(f.TempDir(), "image")
	data, err := os.ReadFile(writeImage(f, smallTree(), &squashfs.WriterOptions{BlockSize: 4096}))
	if err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(image, data, 0o644); err != nil {
		f.Fatal(err)
	}
	tree := mount.NewTree(openImage(f, image), nil)
	a := mount.NewAnswerer(tree, nil)
	node := func(name string) uint64 {
		n, err := find(tree, name)
		if err != nil {
			f.Fatal(err)
		}
		return a.WireNode(n)
	}
	for _, msg := range [][]byte{
		request(26, 1, 0, uint32(7), uint32(40), uint32(131072), uint32(0xffffffff)), request(26, 1, 0, uint32(7), uint32(9), uint32(1), uint32(1)),
		request(1, 2, 1, "f"), request(1, 2, 1, "absent"), request(1, 2, node("f"), "x"), request(3, 2, 1, uint64(0), uint64(0)), request(5, 2, node("l")),
		readRequest(node("f"), 0, 20_000), readRequest(node("tail"), 4000, 4096), readRequest(node("hole"), 0, 1<<20), readRequest(1, 0, 10),
		readRequest(node("f"), 1<<63, 10), listRequest(28, 1, 0, 4096), listRequest(44, 1, 0, 4096), listRequest(44, 1, 3, 100), listRequest(28, node("d"), 1<<40, 4096),
		request(22, 5, node("f"), uint32(10), uint32(0), "user.a"), request(23, 5, node("f"), uint32(0), uint32(0)), request(17, 5, 1), request(4, 5, 1),
		request(2, 5, 1, uint64(1)), request(36, 5, 1, uint64(1)), request(14, 6, node("f"), uint64(0)), request(63, 6, 1<<63),
	} {
		f.Add(msg, uint16(0), []byte(nil))
		f.Add(msg, uint16(len(data)-200), []byte{0xff, 3})
	}
	f.Fuzz(func(t *testing.T, msg []byte, at uint16, damage []byte) {
		image := bytes.Clone(data)
		copy(image[int(at)%len(image):], damage[:min(len(damage), 64)])
		r, err := squashfs.NewReader(bytes.NewReader(image), int64(len(image)), nil)
		if err != nil {
			return
		}
		told := 0
		tree := mount.NewTree(r, &mount.TreeOptions{CacheSize: 1, ReadAhead: -1})
		a := mount.NewAnswerer(tree, &mount.ServeOptions{OnError: func(err error) {
			told++
			if _, ok := errors.AsType[*mount.ServeError](err); !ok {
				t.Errorf("told of %T", err)
			}
		}})
		out := a.Answer(msg)
		if n := mount.Held(tree); n != 0 {
			t.Errorf("%d blocks are still in use", n)
		}
		if out == nil {
			return
		}
		size, errno := binary.NativeEndian.Uint32(out), int32(binary.NativeEndian.Uint32(out[4:]))
		op := binary.NativeEndian.Uint32(msg[4:])
		switch {
		case int(size) != len(out):
			t.Errorf("reply of %d bytes says %d", len(out), size)
		case !bytes.Equal(out[8:16], msg[8:16]):
			t.Error("reply to another request")
		case errno > 0 || errno < -511:
			t.Errorf("errno %d", errno)
		case errno != 0 && len(out) != 16:
			t.Errorf("errno %d with %d bytes", errno, len(out))
		case (errno == -5) != (told > 0):
			t.Errorf("errno %d, told %d times", errno, told)
		case (op == 15 || op == 28 || op == 44) && errno == 0 && uint32(len(out)-16) > binary.NativeEndian.Uint32(msg[56:]):
			t.Errorf("%d bytes where %d were asked for", len(out)-16, binary.NativeEndian.Uint32(msg[56:]))
		}
	})
}
