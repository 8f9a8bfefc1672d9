package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"hpcimg/squashfs"
)

func newExtract(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "extract [flags] IMAGE PATH DEST",
		Short: "Copy a file or a directory out of an image",
		Long: "Copy PATH of an image into the new directory DEST. As root, owners, devices and extended attributes are restored;\n" +
			"as an ordinary user what could not be is counted and told.",
		Args: cobra.ExactArgs(3),
	}
	f.addJSON(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		l, err := openLocal(args[0])
		if err != nil {
			return err
		}
		defer l.Close()
		if l.reader == nil {
			return fmt.Errorf("%s: a directory: copy from it", l.path)
		}
		if _, err := os.Lstat(args[2]); err == nil {
			return fmt.Errorf("%s: file exists (extract makes a new directory)", args[2])
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		result, err := squashfs.ExtractTo(cmd.Context(), l.reader, args[2], &squashfs.ExtractOptions{Source: imagePath(args[1])})
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", l.path, err), os.RemoveAll(args[2]))
		}
		if f.json {
			return printJSON(cmd.OutOrStdout(), result)
		}
		if !f.quiet {
			for kind, n := range result.SkippedCounts {
				fmt.Fprintf(cmd.ErrOrStderr(), "hpcimg: warning: not restored: %v (%d times)\n", kind, n)
			}
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d files, %d directories, %s\n", args[2], result.Files, result.Directories, byteCount(result.Bytes))
		return err
	}
	return c
}
