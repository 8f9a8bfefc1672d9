package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/image/registry"
)

func newPush(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "push [flags] SRC docker://HOST/REPO[:TAG]",
		Short: "Copy an image to a registry",
		Long: "Copy an image to a registry. An image in layers (docker://, oci:, oci-archive:, docker-archive:) is copied as it is, unless --layers\n" +
			"asks for others; of any other source that convert takes an image is made.",
		Args: cobra.ExactArgs(2),
	}
	f.addSource(c)
	f.addJSON(c)
	c.Flags().StringVar(&f.layers, "layers", "", "make layers of this kind: tar, estargz, squashfs or segments")
	c.Flags().StringVar(&f.compression, "compression", "gzip", "of layers that are made: gzip, zstd or none")
	c.Flags().StringVar(&f.tmpDir, "tmp-dir", "", "where layers that are made are kept until they are pushed (default the system's)")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		img, closer, err := f.pushInput(cmd, args[0])
		if err != nil {
			return err
		}
		defer closer.Close()
		report, err := f.newReporter(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		desc, err := registry.Push(cmd.Context(), img, args[1], &registry.PushOptions{
			Registry: f.registryOptions(),
			Progress: func(e registry.Event) {
				done := e.Done
				if e.Complete {
					done = e.Descriptor.Size
				}
				report.Event(convert.Event{Stage: stagePush, Name: shortDigest(e.Descriptor.Digest), Done: done, Total: e.Descriptor.Size})
			},
		})
		report.Close()
		if err != nil {
			return err
		}
		if f.json {
			return printJSON(cmd.OutOrStdout(), desc)
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), desc.Digest)
		return err
	}
	return c
}

// pushInput opens what is to be pushed, or makes an image of it.
func (f *flags) pushInput(cmd *cobra.Command, src string) (*image.Image, io.Closer, error) {
	if _, err := f.compressor(); err != nil {
		return nil, nil, err
	}
	if _, err := image.ParseReference(src); err == nil && !cmd.Flags().Changed("layers") {
		opts, err := f.imageOptions()
		if err != nil {
			return nil, nil, err
		}
		img, err := image.Open(cmd.Context(), src, opts)
		return img, io.NopCloser(nil), err
	}
	opts, err := f.convertOptions()
	if err != nil {
		return nil, nil, err
	}
	if opts.OCI.Layers, err = f.layerForm(); err != nil {
		return nil, nil, err
	}
	if opts.Cache, err = f.openCache(cmd.ErrOrStderr()); err != nil {
		return nil, nil, err
	}
	input, closer, err := f.input(cmd.Context(), cmd.InOrStdin(), src)
	if err != nil {
		return nil, nil, err
	}
	defer closer.Close()
	img, err := convert.ToImage(cmd.Context(), input, opts)
	if err != nil {
		return nil, nil, formError(err)
	}
	return img.Image, img, nil
}
