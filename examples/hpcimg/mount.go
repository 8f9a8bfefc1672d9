package main

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/spf13/cobra"

	"hpcimg/mount"
)

func newMount(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "mount IMAGE DIR",
		Short: "Mount an image read-only on a directory, through the kernel",
		Long: "Mount an image read-only on a directory, through a loop device and the kernel. This needs root.\n" +
			"The mount stays until hpcimg umount DIR, or umount(8).",
		Args: cobra.ExactArgs(2),
	}
	f.addPolicy(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		l, err := openLocal(args[0])
		if err != nil {
			return err
		}
		defer l.Close()
		if l.reader == nil {
			return fmt.Errorf("%s: a directory: bind it instead", l.path)
		}
		admit, err := f.admit(l)
		if err != nil {
			return err
		}
		// What has been opened and looked at is what is mounted.
		err = mount.SquashfsFile(cmd.Context(), l.file, args[1], &mount.Options{Offset: l.offset, Size: l.size, Admit: admit})
		if errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("%w (an ordinary user can look into the image with hpcimg ls, cat, extract and exec)", err)
		}
		return err
	}
	return c
}

func newUmount(*flags) *cobra.Command {
	return &cobra.Command{
		Use:     "umount DIR",
		Aliases: []string{"unmount"},
		Short:   "Remove a mount",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			err := mount.Unmount(args[0])
			if errors.Is(err, syscall.EINVAL) {
				return fmt.Errorf("%w (nothing is mounted there)", err)
			}
			return err
		},
	}
}

func newProbe(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "probe",
		Short: "Tell what this host allows, and why not",
		Args:  cobra.NoArgs,
	}
	f.addJSON(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		report, err := mount.Probe(cmd.Context())
		if err != nil {
			return err
		}
		if f.json {
			return printJSON(cmd.OutOrStdout(), report)
		}
		_, err = fmt.Fprint(cmd.OutOrStdout(), report)
		return err
	}
	return c
}
