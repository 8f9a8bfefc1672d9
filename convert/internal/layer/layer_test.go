package layer_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hpcimg/convert/internal/layer"
	"hpcimg/image"
	"hpcimg/internal/testtree"
)

func TestStreamClose(t *testing.T) {
	data := testtree.Gzip(testtree.Zeros(64 << 20))
	for range 20 {
		s, err := layer.Open(io.NopCloser(bytes.NewReader(data)), digest.FromString("x"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, s, 1<<20); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// blockedBlob never yields anything, and does not care to be closed.
type blockedBlob struct{ forever chan struct{} }

func (b blockedBlob) Read([]byte) (int, error) { <-b.forever; return 0, io.EOF }
func (b blockedBlob) Close() error             { return nil }
func (b blockedBlob) Stubborn()                {}

// prefixed yields some bytes first.
type prefixed struct {
	io.Reader
	blockedBlob
}

func (p prefixed) Read(b []byte) (int, error) { return p.Reader.Read(b) }

func TestStubbornBlob(t *testing.T) {
	blocked := blockedBlob{make(chan struct{})}
	defer close(blocked.forever)
	archive := testtree.Tree{testtree.File("a", 0o644, testtree.Bytes(1, 1<<20))}.Tar(nil)
	s, err := layer.Open(prefixed{io.MultiReader(bytes.NewReader(archive), blocked), blocked}, "")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Close() }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Close waits for a blob that nobody can stop")
	}
}

var errSource = errors.New("connection reset")

// TestSourceErrors wants errors of the blob itself as they are, wherever they come.
func TestSourceErrors(t *testing.T) {
	archive := testtree.Tree{testtree.File("a", 0o644, testtree.Bytes(1, 1<<20)), testtree.File("b", 0o644, "b")}.Tar(nil)
	for _, data := range [][]byte{archive, testtree.Gzip(archive)} {
		for _, at := range []int{0, 3, 100, len(data) / 2, len(data) - 9, len(data)} {
			r := io.MultiReader(bytes.NewReader(data[:at]), failing{})
			err := drain(io.NopCloser(r))
			if !errors.Is(err, errSource) || errors.Is(err, layer.ErrFormat) {
				t.Errorf("after %d of %d bytes: %v", at, len(data), err)
			}
		}
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errSource }

func drain(blob io.ReadCloser) error {
	s, err := layer.Open(blob, "")
	if err != nil {
		return err
	}
	defer s.Close()
	r := layer.NewTar(s, &layer.Budget{}, notes{})
	for {
		if _, err := r.Next(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			return err
		}
	}
}

func TestUnknownDiffID(t *testing.T) {
	_, err := layer.Open(io.NopCloser(bytes.NewReader(nil)), "md5:d41d8cd98f00b204e9800998ecf8427e")
	if !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("error %v", err)
	}
}

// TestDiffIDBehindTheEnd changes a byte that no tar reader looks at.
func TestDiffIDBehindTheEnd(t *testing.T) {
	archive := append(testtree.Tree{testtree.File("a", 0o644, "a")}.Tar(nil), make([]byte, 4096)...)
	id := digest.FromBytes(archive)
	for _, data := range [][]byte{archive, testtree.Gzip(archive)} {
		if err := drainWith(data, id); err != nil {
			t.Error(err)
		}
	}
	archive[len(archive)-1] = 1
	for _, data := range [][]byte{archive, testtree.Gzip(archive)} {
		if err := drainWith(data, id); !errors.Is(err, image.ErrDigest) {
			t.Errorf("error %v, want image.ErrDigest", err)
		}
	}
}

func drainWith(data []byte, id digest.Digest) error {
	s, err := layer.Open(io.NopCloser(bytes.NewReader(data)), id)
	if err != nil {
		return err
	}
	defer s.Close()
	r := layer.NewTar(s, &layer.Budget{}, notes{})
	for {
		if _, err := r.Next(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

func TestKeepXattr(t *testing.T) {
	for name, want := range map[string]bool{
		"user.a": true, "user.overlay.opaque": false, "user.overlayish": true, "user": false,
		"security.capability": true, "security.ima": true, "security.selinux": false, "security.evm": false,
		"trusted.a": true, "trusted.overlay.redirect": false, "system.posix_acl_access": false, "other.x": false, "": false,
	} {
		if got := layer.KeepXattr(layer.File, name); got != want {
			t.Errorf("KeepXattr(File, %q) = %t", name, got)
		}
	}
	if layer.KeepXattr(layer.Symlink, "user.a") || !layer.KeepXattr(layer.Symlink, "trusted.a") {
		t.Error("a symbolic link has trusted.* but not user.*")
	}
}

// TestTextBudget has entries that refer to more than may be kept of them.
func TestTextBudget(t *testing.T) {
	archive := testtree.Tree{
		testtree.File("a", 0o644, "a", testtree.Xattr("user.x", string(make([]byte, 1000)))),
		testtree.Symlink("b", "target"),
	}.Tar(nil)
	for budget, want := range map[int64]error{0: nil, 2000: nil, 1010: layer.ErrLimit, 500: layer.ErrLimit} {
		r := layer.NewTar(bytes.NewReader(archive), &layer.Budget{Text: budget}, notes{})
		var err error
		for err == nil {
			_, err = r.Next()
		}
		if want == nil {
			want = io.EOF
		}
		if !errors.Is(err, want) {
			t.Errorf("budget %d: %v, want %v", budget, err, want)
		}
	}
}
