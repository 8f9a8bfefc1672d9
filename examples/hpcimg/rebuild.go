package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"hpcimg/convert"
	"hpcimg/image"
)

// rebuild converts what a SIF file says it was made from once more, and compares.
func (f *flags) rebuild(cmd *cobra.Command, path, source string) error {
	file, err := openSIF(path)
	if err != nil {
		return err
	}
	defer file.Close()
	p, err := convert.ReadProvenance(file)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if source == "" {
		source = p.Source.Reference
	}
	ref, err := image.ParseReference(source)
	if err != nil {
		return fmt.Errorf("%s: was made from %q: %w (give --source)", path, source, err)
	}
	// The tag may have moved since.
	if ref.Transport == image.TransportDocker || ref.Transport == image.TransportOCI {
		ref.Tag, ref.Digest = "", p.Source.Manifest
	}
	opts, err := f.imageOptions()
	if err != nil {
		return err
	}
	if f.platform == "" {
		opts.Platform = &p.Source.Platform
	}
	img, err := image.OpenReference(cmd.Context(), ref, opts)
	if err != nil {
		return err
	}
	store, err := f.openCache(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	if err := convert.Rebuild(cmd.Context(), file, img, &convert.Options{Cache: store}); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if f.json {
		return printJSON(cmd.OutOrStdout(), struct {
			Path       string              `json:"path"`
			Rebuilt    bool                `json:"rebuilt"`
			Provenance *convert.Provenance `json:"provenance"`
		}{path, true, p})
	}
	out := cmd.OutOrStdout()
	if q := p.Parameters; q.Definition != "" || len(q.Labels) > 0 {
		fmt.Fprintf(out, "with labels %q and a definition file of %d bytes that are not the source's\n", q.Labels, len(q.Definition))
	}
	_, err = fmt.Fprintf(out, "rebuilt: %s is what %s %s gives\n", path, source, p.Source.Manifest)
	return err
}
