package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/image/registry"
)

func newPush(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "push [flags] SRC docker://HOST/REPO[:TAG]",
		Short: "Copy an image in layers to a registry",
		Args:  cobra.ExactArgs(2),
	}
	f.addSource(c)
	f.addJSON(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		opts, err := f.imageOptions()
		if err != nil {
			return err
		}
		img, err := image.Open(cmd.Context(), args[0], opts)
		if err != nil {
			return err
		}
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
