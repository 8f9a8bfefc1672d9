package sif

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	sylabs "github.com/sylabs/sif/v2/pkg/sif"

	"hpcimg/internal/sifedit"
	"hpcimg/sif/internal/disk"
)

// NewObject describes an object to be added to a file.
type NewObject struct {
	Type DataType // anything but a primary partition, an OCI object or a signature
	Name string
	// Group puts the object into a group; 0: into none. Adding to a signed group invalidates its signatures.
	Group uint32
	// LinkedID links the object to another one; 0: to none.
	LinkedID uint32
	// SBOM is the format of a DataSBOM.
	SBOM SBOMFormat
	// Data is read to its end.
	Data io.Reader
}

// SBOMFormat is the format of a software bill of materials.
type SBOMFormat int32

// Formats of bills of materials, with the numbers that SIF files have.
const (
	SBOMCycloneDXJSON SBOMFormat = 1
	SBOMCycloneDXXML  SBOMFormat = 2
	SBOMSPDXJSON      SBOMFormat = 4
	SBOMSyftJSON      SBOMFormat = 8
)

// EditOptions are those of AddObject and DeleteObject.
type EditOptions struct {
	// Time is stored as time of modification, and of creation for a new object. The zero time is stored as such, as reproducible images
	// have it.
	Time time.Time
}

// AddObject adds an object to the file at path. The file is replaced as a whole: an error, a cancelled context or a killed process leaves the
// old one. Mode and owner stay.
func AddObject(ctx context.Context, path string, object *NewObject, opts *EditOptions) error {
	var o EditOptions
	if opts != nil {
		o = *opts
	}
	if err := object.check(); err != nil {
		return err
	}
	input := []sylabs.DescriptorInputOpt{sylabs.OptObjectName(object.Name), sylabs.OptNoGroup(), sylabs.OptObjectTime(o.Time)}
	if object.Group != 0 {
		input = append(input, sylabs.OptGroupID(object.Group))
	}
	if object.LinkedID != 0 {
		input = append(input, sylabs.OptLinkedID(object.LinkedID))
	}
	if object.Type == DataSBOM {
		input = append(input, sylabs.OptSBOMMetadata(sylabs.SBOMFormat(object.SBOM)))
	}
	di, err := sylabs.NewDescriptorInput(sylabs.DataType(object.Type), object.Data, input...)
	if err != nil {
		return fmt.Errorf("sif: %w", err)
	}
	return edit(ctx, path, func(f *sylabs.FileImage) error {
		if f.DescriptorsFree() == 0 {
			return &LimitError{What: "number of descriptors", Limit: f.DescriptorsTotal()}
		}
		if object.LinkedID != 0 {
			if _, err := f.GetDescriptor(sylabs.WithID(object.LinkedID)); err != nil {
				return notFound(fmt.Sprintf("linked object %d", object.LinkedID))
			}
		}
		return f.AddObject(di, sylabs.OptAddWithTime(o.Time))
	})
}

func (n *NewObject) check() error {
	if n == nil {
		return fmt.Errorf("sif: no object to add: %w", fs.ErrInvalid)
	}
	switch n.Type {
	case DataDefinition, DataEnvironment, DataLabels, DataJSON, DataGeneric:
		if n.SBOM != 0 {
			return fmt.Errorf("sif: an object of type %v has no SBOM format: %w", n.Type, fs.ErrInvalid)
		}
	case DataSBOM:
		if n.SBOM < SBOMCycloneDXJSON || n.SBOM > SBOMSyftJSON {
			return fmt.Errorf("sif: SBOM format %d: %w", n.SBOM, fs.ErrInvalid)
		}
	default:
		return fmt.Errorf("sif: adding an object of type %v: %w", n.Type, errors.ErrUnsupported)
	}
	if n.Data == nil || len(n.Name) > disk.NameSize || strings.ContainsRune(n.Name, 0) || n.Group&disk.GroupMask != 0 {
		return fmt.Errorf("sif: NewObject: %w", fs.ErrInvalid)
	}
	return nil
}

// DeleteObject removes the object with an ID from the file at path, overwrites its bytes with zeros, and cuts off what is unused at the end.
// The file is replaced as a whole, as by AddObject. Signatures of the object's group no longer hold.
func DeleteObject(ctx context.Context, path string, id uint32, opts *EditOptions) error {
	var o EditOptions
	if opts != nil {
		o = *opts
	}
	return edit(ctx, path, func(f *sylabs.FileImage) error {
		err := f.DeleteObject(id, sylabs.OptDeleteZero(true), sylabs.OptDeleteCompact(true), sylabs.OptDeleteWithTime(o.Time))
		if errors.Is(err, sylabs.ErrObjectNotFound) {
			return notFound(fmt.Sprintf("object %d", id))
		}
		return err
	})
}

func edit(ctx context.Context, path string, change func(*sylabs.FileImage) error) error {
	check := func(r io.ReaderAt, size int64) error {
		_, err := NewFile(r, size)
		return err
	}
	return sifedit.Edit(ctx, path, check, change)
}
