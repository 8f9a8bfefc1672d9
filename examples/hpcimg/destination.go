package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"hpcimg/convert"
	"hpcimg/image"
)

// destination is where a conversion writes.
type destination struct {
	path string
	form convert.Form
	tag  string // in an OCI layout or archive
}

// parseDestination reads a destination: TRANSPORT:PATH, or a bare path that goes by its extension.
func parseDestination(s string) (destination, error) {
	for prefix, form := range map[string]convert.Form{
		"sif:": convert.FormSIF, "squashfs:": convert.FormSquashfs, "tar:": convert.FormTar, "dir:": convert.FormDir,
		"oci-sif:": convert.FormOCISIF,
	} {
		if path, ok := strings.CutPrefix(s, prefix); ok {
			if path == "" {
				return destination{}, usagef("%s: there is no path", s)
			}
			return destination{path: path, form: form}, nil
		}
	}
	for prefix, form := range map[string]convert.Form{
		"oci:": convert.FormOCI, "oci-archive:": convert.FormOCIArchive, "docker-archive:": convert.FormDockerArchive,
	} {
		if !strings.HasPrefix(s, prefix) {
			continue
		}
		ref, err := image.ParseReference(s)
		if err != nil {
			return destination{}, usagef("%w", err)
		}
		if ref.Digest != "" {
			return destination{}, usagef("%s: a destination has no digest", s)
		}
		return destination{path: ref.Path, form: form, tag: ref.Tag}, nil
	}
	if strings.HasPrefix(s, "docker://") {
		return destination{}, usagef("%s: to a registry, say hpcimg push", s)
	}
	form, err := convert.FormOf(s)
	if err != nil {
		return destination{}, usagef("%w; or say sif:, oci-sif:, squashfs:, tar:, dir:, oci:, oci-archive: or docker-archive: before the path", err)
	}
	return destination{path: s, form: form}, nil
}

// check refuses a destination that cannot be written, or that exists and is not to be replaced.
func (d destination) check(force bool) error {
	if info, err := os.Stat(filepath.Dir(d.path)); err != nil {
		return err
	} else if !info.IsDir() {
		return fmt.Errorf("%s: not a directory", filepath.Dir(d.path))
	}
	if force || d.form == convert.FormOCI { // to a layout, images are added
		return nil
	}
	if _, err := os.Lstat(d.path); err == nil {
		return fmt.Errorf("%s: file exists (use --force to replace it)", d.path)
	}
	return nil
}

// layerForm is what --layers says, or "" for what goes with the destination.
func (f *flags) layerForm() (convert.LayerForm, error) {
	switch l := convert.LayerForm(f.layers); l {
	case "", convert.LayersTar, convert.LayersEstargz, convert.LayersSquashfs, convert.LayersSegments:
		return l, nil
	}
	return "", usagef("--layers: %q is not tar, estargz, squashfs or segments", f.layers)
}

// formError makes the command line's fault what is one.
func formError(err error) error {
	if errors.Is(err, convert.ErrForm) {
		return &usageError{err}
	}
	return err
}
