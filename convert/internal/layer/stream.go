package layer

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	// For digests of that kind.
	_ "crypto/sha512"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hpcimg/image"
)

// Stream is the tar stream of a layer.
type Stream struct {
	blob   io.ReadCloser
	ahead  *pipe // compressed
	tar    *pipe
	source *sourceReader

	compression Compression
	closeOnce   sync.Once
	size        int64 // of the tar stream, once it has ended
}

// sourceReader keeps errors of the blob apart from those of the compression.
type sourceReader struct {
	r   io.Reader
	err error
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// Open returns the tar stream that is stored as blob, which it takes over. At its end the stream is compared with diffID,
// unless that is empty.
//
// The first bytes are read before Open returns. A blob whose Close does not end a Read in another goroutine may be read
// for some time after Close of the stream.
func Open(blob io.ReadCloser, diffID digest.Digest) (*Stream, error) {
	s := &Stream{blob: blob}
	s.ahead = newPipe(func(w io.Writer) error {
		_, err := w.(io.ReaderFrom).ReadFrom(blob)
		return err
	}, nil, nil)
	s.source = &sourceReader{r: s.ahead}
	r, c, done, err := decompress(s.source)
	if err != nil {
		err = s.inflateError(err)
		s.Close()
		return nil, err
	}
	s.compression = c
	counter := &countingHash{}
	finish := func() error { return nil }
	if diffID == "" {
		counter = nil
	} else {
		if !diffID.Algorithm().Available() {
			s.Close()
			return nil, fmt.Errorf("%w: diffID algorithm %q", errors.ErrUnsupported, diffID.Algorithm())
		}
		counter.Hash = newHash(diffID)
		finish = func() error { return counter.check(diffID) }
	}
	var sum hash.Hash
	if counter != nil {
		sum = counter
	}
	s.tar = newPipe(func(w io.Writer) error {
		defer done()
		return s.inflate(w, r)
	}, sum, finish)
	return s, nil
}

func newHash(d digest.Digest) hash.Hash {
	if d.Algorithm() == digest.SHA256 {
		return sha256.New()
	}
	return d.Algorithm().Hash()
}

// inflate copies the tar stream to w, and makes sure that nothing is left of the blob.
func (s *Stream) inflate(w io.Writer, r io.Reader) error {
	_, err := io.Copy(w, r)
	if errors.Is(err, io.ErrClosedPipe) {
		return err
	}
	if err != nil {
		return s.inflateError(err)
	}
	rest, err := io.Copy(io.Discard, s.source)
	if err != nil {
		return err
	}
	if rest > 0 {
		return malformedf("%d bytes after the end of the %s stream", rest, s.compression)
	}
	return nil
}

// inflateError returns the error to report for err: if the blob is not what it should be, that is what matters.
func (s *Stream) inflateError(err error) error {
	if s.source.err == nil {
		_, _ = io.Copy(io.Discard, s.source)
	}
	if s.source.err != nil {
		return s.source.err
	}
	return malformed(err)
}

// Read reads the tar stream. It returns io.EOF only if all of the blob has been read and the diffID is right.
func (s *Stream) Read(p []byte) (int, error) {
	n, err := s.tar.Read(p)
	s.size += int64(n)
	return n, err
}

// Compression returns how the blob is stored.
func (s *Stream) Compression() Compression { return s.compression }

// Size returns the bytes read from the stream so far.
func (s *Stream) Size() int64 { return s.size }

// Close ends the goroutines of the stream. It waits for them, except for one that is in a Read of a blob that does not
// care about its Close.
func (s *Stream) Close() error {
	var err error
	s.closeOnce.Do(func() {
		s.ahead.halt()
		if s.tar != nil {
			s.tar.halt()
		}
		err = s.blob.Close()
		if _, stubborn := s.blob.(Stubborn); stubborn {
			return
		}
		s.ahead.wg.Wait()
		if s.tar != nil {
			s.tar.wg.Wait()
		}
	})
	return err
}

// Stubborn is a blob whose Close does not end a Read.
type Stubborn interface{ Stubborn() }

// countingHash knows how much it has hashed.
type countingHash struct {
	hash.Hash
	size int64
}

func (c *countingHash) Write(p []byte) (int, error) {
	c.size += int64(len(p))
	return c.Hash.Write(p)
}

func (c *countingHash) check(want digest.Digest) error {
	got := digest.NewDigest(want.Algorithm(), c.Hash)
	if got == want {
		return nil
	}
	return fmt.Errorf("diffID: %w", &image.DigestError{
		Descriptor: image.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: want, Size: c.size},
		Got:        got, GotSize: c.size,
	})
}
