package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/image/registry"
	"hpcimg/sif"
)

const maxSBOMs = 8

// sbomFormats are the types under which lists of contents are attached to images.
func sbomFormats() map[string]sif.SBOMFormat {
	return map[string]sif.SBOMFormat{
		"application/spdx+json":          sif.SBOMSPDXJSON,
		"application/vnd.cyclonedx+json": sif.SBOMCycloneDXJSON,
		"application/vnd.cyclonedx+xml":  sif.SBOMCycloneDXXML,
		"application/vnd.syft+json":      sif.SBOMSyftJSON,
	}
}

// addSBOMs puts the lists of contents that are attached to the source of a SIF file into it, where signatures cover them.
func (f *flags) addSBOMs(ctx context.Context, path string) error {
	file, err := sif.Open(path)
	if err != nil {
		return err
	}
	p, err := convert.ReadProvenance(file)
	file.Close()
	if err != nil {
		return fmt.Errorf("--sbom: %w", err)
	}
	ref, err := image.ParseReference(p.Source.Reference)
	if err != nil || ref.Transport != image.TransportDocker {
		return usagef("--sbom: %q is not an image in a registry", p.Source.Reference)
	}
	at, err := f.epoch()
	if err != nil {
		return err
	}
	client, added := f.registryClient(), 0
	for _, d := range []digest.Digest{p.Source.Manifest, p.Source.Index} {
		if d == "" {
			continue
		}
		ref.Tag, ref.Digest = "", d
		list, err := client.Referrers(ctx, ref.String(), "")
		if err != nil {
			return err
		}
		for _, m := range list {
			data, format, err := readSBOM(ctx, client, ref, m)
			if err != nil {
				return err
			}
			if format == 0 || added == maxSBOMs {
				continue
			}
			added++
			object := &sif.NewObject{Type: sif.DataSBOM, SBOM: format, Name: fmt.Sprintf("sbom-%d", added), Group: 1, Data: bytes.NewReader(data)}
			if err := sif.AddObject(ctx, path, object, &sif.EditOptions{Time: at}); err != nil {
				return err
			}
		}
	}
	if added == 0 && !f.quiet {
		fmt.Fprintf(f.std.err, "hpcimg: warning: --sbom: none is attached to %s\n", p.Source.Reference)
	}
	return nil
}

// readSBOM reads a referrer, if it is a list of contents; else the format is 0.
func readSBOM(ctx context.Context, client *registry.Client, ref image.Reference, referrer image.Descriptor) ([]byte, sif.SBOMFormat, error) {
	ref.Digest = referrer.Digest
	_, raw, err := client.Manifest(ctx, ref.String())
	if err != nil {
		return nil, 0, err
	}
	var m image.Manifest
	if err := json.Unmarshal(raw, &m); err != nil || len(m.Layers) != 1 {
		return nil, 0, nil // something else, whatever it is
	}
	format := sbomFormats()[m.ArtifactType]
	if format == 0 {
		format = sbomFormats()[m.Layers[0].MediaType]
	}
	if format == 0 {
		return nil, 0, nil
	}
	data, err := client.Blob(ctx, ref.String(), m.Layers[0])
	return data, format, err
}

func (f *flags) addSBOM(c *cobra.Command) {
	c.Flags().BoolVar(&f.sbom, "sbom", false, "put the bills of materials that are attached to the source into the SIF file")
}
