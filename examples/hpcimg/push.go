package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"hpcimg/convert"
	"hpcimg/image/registry"
)

func newPush(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "push [flags] SRC docker://HOST/REPO[:TAG]|oras://HOST/REPO[:TAG]",
		Short: "Copy an image to a registry",
		Long: "Copy an image to a registry. An image in layers (docker://, oci:, oci-archive:, docker-archive:) is copied as it is, unless --layers\n" +
			"asks for others; of any other source that convert takes an image is made. With --layers segments a SIF file is cut and stays as it is:\n" +
			"of a new version only what has changed is sent, and pulled. With oras:// a SIF file is pushed in one piece, as Apptainer does it.",
		Args: cobra.ExactArgs(2),
	}
	f.addSource(c)
	f.addJSON(c)
	c.Flags().StringVar(&f.layers, "layers", "", "make layers of this kind: tar, estargz, squashfs or segments")
	c.Flags().StringVar(&f.compression, "compression", "gzip", "of layers that are made: gzip, zstd or none")
	c.Flags().StringVar(&f.tmpDir, "tmp-dir", "", "where layers that are made are kept until they are pushed (default the system's)")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		push, closer, err := f.pushInput(cmd, args[0], args[1])
		if err != nil {
			return err
		}
		defer closer.Close()
		report, err := f.newReporter(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		desc, err := push(cmd.Context(), args[1], &registry.PushOptions{
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
