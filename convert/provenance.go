package convert

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"hpcimg/image"
	"hpcimg/sif"
	"hpcimg/squashfs"
)

// ProvenanceObject is the name of the SIF object that says what an image was made from, and how.
const ProvenanceObject = "hpcimg.provenance.v1"

const maxProvenance = 4 << 20

// ErrRebuild is matched by the error of Rebuild about a file that is not what its source gives.
var ErrRebuild = errors.New("convert: not what the source gives")

// Provenance says what an image was made from, and how. All digests were verified when it was made. Whether to believe it is a matter of who has
// signed the file; Rebuild needs no belief.
type Provenance struct {
	Version    int                  `json:"version"` // 1
	Source     ProvenanceSource     `json:"source"`
	Layers     []ProvenanceLayer    `json:"layers"`
	Tool       string               `json:"tool,omitempty"`
	ToolVer    string               `json:"toolVersion,omitempty"`
	Parameters ProvenanceParameters `json:"parameters"`
}

// ProvenanceSource names the image.
type ProvenanceSource struct {
	Reference string         `json:"reference,omitempty"` // what it was opened by
	Index     digest.Digest  `json:"index,omitempty"`     // if it was chosen from one
	Manifest  digest.Digest  `json:"manifest"`
	Platform  image.Platform `json:"platform"`
}

// ProvenanceLayer is a layer, bottom first.
type ProvenanceLayer struct {
	Digest digest.Digest `json:"digest"`
	DiffID digest.Digest `json:"diffID"`
	Size   int64         `json:"size"`
}

// ProvenanceParameters are those options of the conversion that the bytes of the result depend on.
type ProvenanceParameters struct {
	Compression string            `json:"compression"`
	Level       int               `json:"level,omitempty"`
	BlockSize   int               `json:"blockSize,omitempty"`
	AllRoot     bool              `json:"allRoot,omitempty"`
	Time        int64             `json:"time,omitempty"` // seconds since 1970; 0: not given
	Definition  string            `json:"definition,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	ID          string            `json:"id,omitempty"`
	Arch        string            `json:"arch,omitempty"`
	NoReuse     bool              `json:"noReuse,omitempty"`
}

// provenance describes a conversion of an image; nil for other sources, of which nothing is known that could be verified.
func (s *Source) provenance(o *Options) ([]byte, error) {
	if s.image == nil || o.SIF.NoProvenance {
		return nil, nil
	}
	p := Provenance{
		Version: 1, Tool: o.SIF.Tool, ToolVer: o.SIF.Version, Layers: []ProvenanceLayer{},
		Source: ProvenanceSource{Reference: s.reference, Manifest: s.image.Descriptor().Digest, Platform: s.image.Platform()},
		Parameters: ProvenanceParameters{
			Compression: o.Compression.String(), Level: o.Level, BlockSize: o.BlockSize, AllRoot: o.AllRoot,
			Definition: o.SIF.Definition, Labels: o.SIF.Labels, Arch: o.SIF.Arch, NoReuse: o.SIF.NoReuse,
		},
	}
	if root := s.image.Root().Digest; root != p.Source.Manifest {
		p.Source.Index = root
	}
	if !o.Time.IsZero() {
		p.Parameters.Time = o.Time.Unix()
	}
	if o.SIF.ID != [16]byte{} {
		p.Parameters.ID = hex.EncodeToString(o.SIF.ID[:])
	}
	for _, l := range s.image.Layers() {
		p.Layers = append(p.Layers, ProvenanceLayer{Digest: l.Descriptor.Digest, DiffID: l.DiffID, Size: l.Descriptor.Size})
	}
	return json.Marshal(p)
}

// ReadProvenance reads what a SIF file says of how it was made. The error is fs.ErrNotExist if it says nothing.
func ReadProvenance(f *sif.File) (*Provenance, error) {
	for _, o := range f.Objects() {
		if o.Name != ProvenanceObject || o.Type != sif.DataGeneric {
			continue
		}
		if o.Size > maxProvenance {
			return nil, &LimitError{What: "bytes in " + ProvenanceObject, Limit: maxProvenance}
		}
		data, err := io.ReadAll(o.Open())
		if err != nil {
			return nil, err
		}
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		p := new(Provenance)
		if err := dec.Decode(p); err != nil {
			return nil, fmt.Errorf("convert: %s: %w", ProvenanceObject, err)
		}
		if p.Version != 1 {
			return nil, fmt.Errorf("convert: %s: version %d: %w", ProvenanceObject, p.Version, errors.ErrUnsupported)
		}
		if err := p.Source.Manifest.Validate(); err != nil {
			return nil, fmt.Errorf("convert: %s: manifest %q: %w", ProvenanceObject, p.Source.Manifest, err)
		}
		return p, nil
	}
	return nil, fmt.Errorf("convert: %s: %w", ProvenanceObject, fs.ErrNotExist)
}

// options returns the options that gave the file.
func (p *Provenance) options(o Options) (Options, error) {
	comp, err := squashfs.ParseCompression(p.Parameters.Compression)
	if err != nil {
		return o, err
	}
	o.Form, o.Compression, o.Level, o.BlockSize, o.AllRoot, o.Time = FormSIF, comp, p.Parameters.Level, p.Parameters.BlockSize, p.Parameters.AllRoot, time.Time{}
	if p.Parameters.Time != 0 {
		o.Time = time.Unix(p.Parameters.Time, 0).UTC()
	}
	o.SIF = SIFOptions{
		Tool: p.Tool, Version: p.ToolVer, Definition: p.Parameters.Definition, Labels: p.Parameters.Labels, Arch: p.Parameters.Arch, NoReuse: p.Parameters.NoReuse,
	}
	if p.Parameters.ID != "" {
		id, err := hex.DecodeString(p.Parameters.ID)
		if err != nil || len(id) != len(o.SIF.ID) {
			return o, fmt.Errorf("convert: %s: id %q: %w", ProvenanceObject, p.Parameters.ID, fs.ErrInvalid)
		}
		copy(o.SIF.ID[:], id)
	}
	o.Reuse, o.Force = nil, false
	return o, nil
}

// Rebuild converts img again, as f says that it was made, and compares. No error means: f is, but for signatures and bills of materials that were added, byte for byte what a conversion
// of img gives with the parameters in its Provenance. ErrRebuild is matched if it is not. Of opts, TempDir, Cache, Workers, Limits, Progress
// and Logger count; what a cache holds is part of what is believed.
func Rebuild(ctx context.Context, f *sif.File, img *image.Image, opts *Options) error {
	p, err := ReadProvenance(f)
	if err != nil {
		return err
	}
	if got := img.Descriptor().Digest; got != p.Source.Manifest {
		return fmt.Errorf("%w: made from manifest %s, the source is %s", ErrRebuild, p.Source.Manifest, got)
	}
	var o Options
	if opts != nil {
		o = *opts
	}
	if o, err = p.options(o); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.TempDir, ".hpcimg-rebuild-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	src := FromImage(img)
	if err := src.callIt(p.Source.Reference); err != nil {
		return err
	}
	path := filepath.Join(dir, "image.sif")
	if _, err := Convert(ctx, src, path, &o); err != nil {
		return err
	}
	again, err := sif.Open(path)
	if err != nil {
		return err
	}
	defer again.Close()
	return sameObjects(ctx, f, again)
}

// callIt gives a source the name by which it was opened at the time: a tag may have moved, or the name be longer by a digest.
func (s *Source) callIt(reference string) error {
	if reference == "" || reference == s.reference {
		return nil
	}
	ref, err := image.ParseReference(reference)
	if err != nil {
		return fmt.Errorf("convert: %s: %w", ProvenanceObject, err)
	}
	s.name(ref)
	return nil
}

// sameObjects compares two SIF files but for what is added to them later.
func sameObjects(ctx context.Context, have, want *sif.File) error {
	if !bytes.Equal(have.SignedHeader(), want.SignedHeader()) {
		return fmt.Errorf("%w: global header differs", ErrRebuild)
	}
	a, b := converted(have), converted(want)
	for i, o := range a {
		if i >= len(b) {
			return fmt.Errorf("%w: object %d (%s %q) is too much", ErrRebuild, o.ID, o.Type, o.Name)
		}
		if !bytes.Equal(o.SignedDescriptor(uint32(i)), b[i].SignedDescriptor(uint32(i))) || o.GroupID != b[i].GroupID {
			return fmt.Errorf("%w: descriptor of object %d (%s %q) differs", ErrRebuild, o.ID, o.Type, o.Name)
		}
		if err := sameData(ctx, o, b[i]); err != nil {
			return err
		}
	}
	if len(a) < len(b) {
		return fmt.Errorf("%w: object %q is missing", ErrRebuild, b[len(a)].Name)
	}
	return nil
}

// converted returns the objects that a conversion makes.
func converted(f *sif.File) []sif.Object {
	return slices.DeleteFunc(f.Objects(), func(o sif.Object) bool { return o.Type == sif.DataSignature || o.Type == sif.DataSBOM })
}

func sameData(ctx context.Context, a, b sif.Object) error {
	x, y := make([]byte, 256<<10), make([]byte, 256<<10)
	ra, rb := a.Open(), b.Open()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, errA := io.ReadFull(ra, x)
		m, errB := io.ReadFull(rb, y)
		if !bytes.Equal(x[:n], y[:m]) {
			return fmt.Errorf("%w: object %d (%s %q) differs", ErrRebuild, a.ID, a.Type, a.Name)
		}
		for _, err := range []error{errA, errB} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return err
			}
		}
		if errA != nil && errB != nil {
			return nil
		}
	}
}
