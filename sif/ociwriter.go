package sif

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"hpcimg/sif/internal/disk"
)

// ociSpare is how many descriptors SingularityCE leaves free in an OCI-SIF, for overlays and signatures.
const ociSpare = 8

const maxAlignment = 1 << 20

// OCIWriterOptions describe the OCI-SIF to be written. Blobs is required.
type OCIWriterOptions struct {
	// Blobs is how many blobs there will be, the root index not among them: the table stands before them.
	Blobs int
	// ID identifies the file. Zero is the nil UUID, which SingularityCE writes.
	ID [16]byte
	// Time is stored as the time of creation and modification of everything. The zero time, which SingularityCE writes, is stored
	// as such.
	Time time.Time
	// Alignment of blobs in the file, a power of two up to 1 MiB. Default: none, as SingularityCE has it. Only with 512 and more can the kernel
	// mount a layer by its place in the file.
	Alignment int64
}

// OCIWriter writes an OCI-SIF: the blobs of an OCI image (layers, config, manifest) in one file, and an index of what they are. There
// is no primary partition, no launch script and no architecture in the header; SingularityCE from 4.0 runs such files, and
// Apptainer does not. After an error the output is worthless; OCIWriter never removes anything.
type OCIWriter struct {
	w         *Writer
	blobs     int
	alignment int64
	digests   map[string]bool
	begun     int64 // where the blob starts that the caller writes; 0 if none
}

// NewOCIWriter returns an OCIWriter that writes to w from offset 0.
func NewOCIWriter(w io.WriterAt, opts *OCIWriterOptions) (*OCIWriter, error) {
	var o OCIWriterOptions
	if opts != nil {
		o = *opts
	}
	switch {
	case o.Blobs < 1 || o.Blobs > maxDescriptors-ociSpare-1:
		return nil, fmt.Errorf("sif: OCIWriterOptions.Blobs %d: %w", o.Blobs, fs.ErrInvalid)
	case o.Alignment < 0 || o.Alignment > maxAlignment || o.Alignment&(o.Alignment-1) != 0:
		return nil, fmt.Errorf("sif: OCIWriterOptions.Alignment %d: %w", o.Alignment, fs.ErrInvalid)
	}
	h := blankHeader(o.ID, o.Time, o.Blobs+1+ociSpare)
	return &OCIWriter{
		w: &Writer{w: w, header: h, end: h.DataOffset}, blobs: o.Blobs,
		alignment: max(o.Alignment, 1), digests: make(map[string]bool),
	}, nil
}

// AddBlob writes a blob and returns its digest, as "sha256:" and hexadecimal digits. Blobs are found by their digests: one that has been
// written before is an error, as is one more than there were to be.
func (w *OCIWriter) AddBlob(r io.Reader) (digest string, err error) {
	if len(w.w.table) == w.blobs || w.begun > 0 || w.w.state != stateObjects {
		return "", misuse("AddBlob")
	}
	return w.add(DataOCIBlob, r)
}

// BeginBlob returns the offset in the file at which the caller writes the next blob, so that a large one goes straight to its final position.
func (w *OCIWriter) BeginBlob() (offset int64, err error) {
	if len(w.w.table) == w.blobs || w.begun > 0 || w.w.state != stateObjects {
		return 0, misuse("BeginBlob")
	}
	w.begun, err = w.pad()
	return w.begun, err
}

// EndBlob says that the caller has written size bytes from the offset that BeginBlob returned, and what their digest is: "sha256:" and
// hexadecimal digits. It is believed.
func (w *OCIWriter) EndBlob(size int64, digest string) error {
	if w.begun == 0 || size < 0 {
		return misuse("EndBlob")
	}
	start := w.begun
	w.begun = 0
	return w.describe(DataOCIBlob, start, size, digest)
}

// pad fills up to where the next object starts.
func (w *OCIWriter) pad() (start int64, err error) {
	start = (w.w.end + w.alignment - 1) &^ (w.alignment - 1)
	if _, err := w.w.w.WriteAt(make([]byte, start-w.w.end), w.w.end); err != nil {
		return 0, fmt.Errorf("sif: padding: %w", err)
	}
	return start, nil
}

func (w *OCIWriter) add(t DataType, r io.Reader) (string, error) {
	start, err := w.pad()
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	size, err := io.Copy(io.MultiWriter(io.NewOffsetWriter(w.w.w, start), sum), r)
	if err != nil {
		return "", fmt.Errorf("sif: %v: %w", t, err)
	}
	digest := "sha256:" + hex.EncodeToString(sum.Sum(nil))
	return digest, w.describe(t, start, size, digest)
}

func (w *OCIWriter) describe(t DataType, start, size int64, digest string) error {
	if w.digests[digest] {
		return fmt.Errorf("sif: blob %s: %w", digest, fs.ErrExist)
	}
	w.digests[digest] = true
	d := disk.Descriptor{DataType: int32(t)}
	if len(digest) > len(d.Extra) {
		return fmt.Errorf("sif: digest of %d bytes: %w", len(digest), fs.ErrInvalid)
	}
	copy(d.Extra[:], digest)
	return w.w.add(d, start, size)
}

// Close writes the root index, an OCI image index that names the manifests among the blobs, and what is left, the header last. It
// returns the size of the file.
func (w *OCIWriter) Close(rootIndex io.Reader) (size int64, err error) {
	switch {
	case w.w.state != stateObjects || w.begun > 0:
		return 0, misuse("Close")
	case len(w.w.table) < w.blobs:
		return 0, errors.Join(fmt.Errorf("sif: %d of %d blobs", len(w.w.table), w.blobs), misuse("Close"))
	}
	if _, err := w.add(DataOCIRootIndex, rootIndex); err != nil {
		return 0, err
	}
	w.w.state = stateDone
	return w.w.Close()
}
