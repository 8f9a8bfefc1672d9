package convert

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"hpcimg/image"
	"hpcimg/image/cache"
	"hpcimg/squashfs"
)

// Form is what a conversion makes.
type Form string

// The forms of images.
const (
	FormSIF      Form = "sif"      // SIF file with one squashfs partition, executable
	FormSquashfs Form = "squashfs" // plain squashfs

	FormTar           Form = "tar"            // plain tar stream
	FormDir           Form = "dir"            // directory, as Apptainer's sandbox; owners are restored by root only
	FormOCI           Form = "oci"            // OCI image layout, see Options.OCI
	FormOCIArchive    Form = "oci-archive"    // tar file of one
	FormDockerArchive Form = "docker-archive" // what docker save writes and docker load reads
	FormOCISIF        Form = "oci-sif"        // OCI image in a SIF file, with one layer that is a squashfs, as SingularityCE has it
)

// FormOf returns the form that goes with the name of a file: .oci.sif; .sif; .sqfs, .sqsh and .squashfs; .tar. Any other is ErrForm.
func FormOf(name string) (Form, error) {
	if strings.HasSuffix(strings.ToLower(name), ".oci.sif") {
		return FormOCISIF, nil
	}
	switch strings.ToLower(filepath.Ext(name)) {
	case ".sif":
		return FormSIF, nil
	case ".sqfs", ".sqsh", ".squashfs":
		return FormSquashfs, nil
	case ".tar":
		return FormTar, nil
	}
	return "", fmt.Errorf("%w: %q does not end in .sif, .oci.sif, .sqfs, .sqsh, .squashfs or .tar", ErrForm, filepath.Base(name))
}

// Options says how to convert. A nil *Options and the zero value mean the same.
type Options struct {
	// Form of the destination. Default: what goes with its name, see FormOf.
	Form Form

	Compression squashfs.Compression // of a squashfs or of tar layers, for which lz4 will not do; default: gzip
	Level       int                  // default: the compressor's
	BlockSize   int                  // default: 128 KiB
	Workers     int                  // compressing at the same time; default: GOMAXPROCS. The result does not depend on it.

	// AllRoot makes everything belong to user and group 0. Default: owners are kept.
	AllRoot bool
	// Force replaces an existing destination, at the end and in one step. Default: it is fs.ErrExist.
	Force bool
	// Time is put where the result has times that do not come from the layers: a build that is to be reproduced passes
	// SOURCE_DATE_EPOCH. Default: the time of creation in the image's config, and none in the SIF's own headers.
	Time time.Time
	// TempDir is where compressed layers wait for their turn, without a Cache. Default: the destination's directory. At most
	// the size of the result is needed. What is known of 150,000 entries and more waits there too, in some 100 bytes for each.
	TempDir string

	// Cache is where layers that have been read before are looked for, and what is read now is kept. A layer that is there
	// is not even fetched. The result is the same bytes with any cache, and without one. Default: none.
	Cache *cache.Cache
	// Reuse are SIF files from earlier conversions, which serve like a cache: of the layers that they have in common with
	// the source nothing is read, and blocks that are the same in other layers are not compressed again. A file that others
	// may have written to, or that has no index, is left aside. The result is the same bytes, provided that the files are
	// what a conversion has made: a file is trusted as much as a cache. Of a source in segments, segments are taken from any file,
	// whoever it belongs to, as they are compared with their digests.
	Reuse []string

	Limits Limits
	SIF    SIFOptions
	OCI    OCIOptions

	// Progress is called from one goroutine at a time, at most ten times a second for each stage and layer, and in
	// addition when one begins and ends. It must return fast and cannot stop the conversion.
	Progress func(Event)
	// Logger gets decisions at the debug level. Default: silent.
	Logger *slog.Logger

	layerCompression squashfs.Compression // of tar layers
	layerLevel       int
}

// OCIOptions is what only matters for OCI images, archives and layouts.
type OCIOptions struct {
	// Layers is what the image's layers are. Default: LayersTar, and LayersSquashfs in an OCI-SIF, where they can be nothing else.
	Layers LayerForm
	// Tag is the name of the image in a layout or archive; in a Docker archive one that a registry could have it under, such as
	// python:3.12. Default: none.
	Tag string
	// Prioritized are files that a node is to fetch ahead, for LayersEstargz. It needs space for the image in TempDir.
	Prioritized []string
}

// Limits bound what a source may cost. What is more is a *LimitError. A conversion of many small files takes some 135 bytes of
// memory for each entry at most, of names no longer than usual.
type Limits struct {
	Entries int64 // of all layers together; default 5,000,000
	Bytes   int64 // of all layers uncompressed, and of the files that they declare; default 1 TiB
	Text    int64 // bytes of paths, link targets and extended attributes of all layers together; default 1 GiB
}

// SIFOptions is what only matters for FormSIF and, as far as ID goes, for FormOCISIF.
type SIFOptions struct {
	// Definition is the definition file. Default: one that names the source.
	Definition string
	// Labels are added to those of the image.
	Labels map[string]string
	// Tool and Version are recorded in a label.
	Tool, Version string
	// ID identifies the file. Default: the nil UUID, so that equal sources make equal files.
	ID [16]byte
	// Arch is the Go name of the architecture. Default: that of the image's platform or, for sources without one, that
	// of the programs in it.
	Arch string
	// NoReuse leaves the index of the layers out, with which an image can be named in Options.Reuse. It takes about 1 % of
	// the file.
	NoReuse bool
	// NoProvenance leaves out of which image, and how, the file was made; see Provenance.
	NoProvenance bool
	// StrictArch makes it an error, ErrArch, if the programs are for another architecture. Default: a warning.
	StrictArch bool
}

func (o *Options) withDefaults(dst string) (Options, error) {
	var c Options
	if o != nil {
		c = *o
	}
	if c.Form == "" {
		form, err := FormOf(dst)
		if err != nil {
			return c, err
		}
		c.Form = form
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.TempDir == "" {
		c.TempDir = filepath.Dir(dst)
	}
	var errs []error
	if err := c.checkForm(); err != nil {
		errs = append(errs, err)
	}
	if c.Workers < 0 {
		errs = append(errs, fmt.Errorf("%w: Options.Workers %d", fs.ErrInvalid, c.Workers))
	}
	if c.Limits.Entries < 0 || c.Limits.Bytes < 0 || c.Limits.Text < 0 {
		errs = append(errs, fmt.Errorf("%w: Options.Limits %+v", fs.ErrInvalid, c.Limits))
	}
	if _, err := squashfs.NewBuilder(c.builderOptions(0)); err != nil {
		errs = append(errs, err)
	}
	c.stage()
	return c, errors.Join(errs...)
}

func (o *Options) checkForm() error {
	switch o.Form {
	case FormSIF, FormSquashfs, FormTar, FormDir:
		return nil
	case FormOCI, FormOCIArchive, FormDockerArchive:
	case FormOCISIF:
		if o.OCI.Layers == "" {
			o.OCI.Layers = LayersSquashfs
		}
		if o.OCI.Layers != LayersSquashfs {
			return fmt.Errorf("%w: an OCI-SIF has a layer that is a squashfs, not %s", ErrForm, o.OCI.Layers)
		}
		return nil
	default:
		return fmt.Errorf("%w: Options.Form %q", ErrForm, o.Form)
	}
	switch o.OCI.Layers {
	case "":
		o.OCI.Layers = LayersTar
	case LayersTar, LayersEstargz, LayersSquashfs, LayersSegments:
	default:
		return fmt.Errorf("%w: Options.OCI.Layers %q", ErrForm, o.OCI.Layers)
	}
	if o.Form == FormDockerArchive && o.OCI.Layers != LayersTar {
		return fmt.Errorf("%w: a docker-archive has layers that are tar streams, not %s", ErrForm, o.OCI.Layers)
	}
	if o.Form == FormDockerArchive && o.OCI.Tag != "" {
		ref, err := image.ParseReference(string(image.TransportDocker) + "://" + o.OCI.Tag)
		if err != nil || ref.Digest != "" {
			return fmt.Errorf("%w: %q is no name that an image can have in a docker-archive, such as python:3.12", ErrForm, o.OCI.Tag)
		}
	}
	if o.OCI.Layers == LayersTar && o.Compression == squashfs.CompressionLZ4 {
		return fmt.Errorf("%w: layers that are tar streams cannot be compressed by lz4", ErrForm)
	}
	return nil
}

// stage chooses how files are kept on their way to a form that is no squashfs: as fast as can be.
func (o *Options) stage() {
	switch o.Form {
	case FormSIF, FormSquashfs, FormOCISIF:
		return
	case FormOCI, FormOCIArchive, FormDockerArchive:
		if !o.OCI.Layers.isTar() {
			return
		}
	}
	o.layerCompression, o.layerLevel = o.Compression, o.Level
	if o.Form == FormDockerArchive {
		o.layerCompression, o.layerLevel = squashfs.CompressionNone, 0
	}
	o.Compression, o.Level = squashfs.CompressionLZ4, 0
}

func (o *Options) builderOptions(modTime uint32) *squashfs.BuilderOptions {
	return &squashfs.BuilderOptions{
		Compression: o.Compression, Level: o.Level, BlockSize: o.BlockSize,
		AllRoot: o.AllRoot, ModTime: time.Unix(int64(modTime), 0),
	}
}

func (o *Options) packerOptions(pool *squashfs.Pool) *squashfs.PackerOptions {
	return &squashfs.PackerOptions{Compression: o.Compression, Level: o.Level, BlockSize: o.BlockSize, Pool: pool}
}
