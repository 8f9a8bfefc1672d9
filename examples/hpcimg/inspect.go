package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/sif"
)

// inspectView is which part of an image's description is asked for.
type inspectView struct {
	deffile, runscript, labels, environment, oci, layers bool
}

func newInspect(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "inspect [flags] IMAGE",
		Short: "Print what an image says of itself",
		Long: "Print what an image says of itself: labels by default, or the parts that are asked for.\n" +
			"Of an image in a registry, a layout or an archive only the manifest and the configuration are read, no layer.",
		Args: cobra.ExactArgs(1),
	}
	f.addJSON(c)
	f.addSource(c)
	var v inspectView
	fl := c.Flags()
	fl.BoolVarP(&v.deffile, "deffile", "d", false, "print the definition file")
	fl.BoolVarP(&v.runscript, "runscript", "r", false, "print the run script, or the entry point and command")
	fl.BoolVarP(&v.labels, "labels", "l", false, "print the labels (default)")
	fl.BoolVarP(&v.environment, "environment", "e", false, "print the environment")
	fl.BoolVar(&v.oci, "oci", false, "print the OCI configuration as JSON")
	fl.BoolVar(&v.layers, "layers", false, "print the data objects of a SIF, or the layers of an OCI image")
	c.MarkFlagsMutuallyExclusive("json", "oci")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if v == (inspectView{}) {
			v.labels = true
		}
		if strings.HasPrefix(args[0], "oras://") {
			return f.inspectArtifact(cmd, args[0], v)
		}
		if isRemote(args[0]) {
			return f.inspectLayers(cmd, args[0], v)
		}
		return f.inspectLocal(cmd, args[0], v)
	}
	return c
}

func (f *flags) inspectLocal(cmd *cobra.Command, ref string, v inspectView) error {
	if done, err := f.inspectOCISIF(cmd, ref, v); done {
		return err
	}
	l, err := openLocal(ref)
	if err != nil {
		return err
	}
	defer l.Close()
	meta, err := l.metadata()
	if err != nil {
		return fmt.Errorf("%s: %w", l.path, err)
	}
	out := cmd.OutOrStdout()
	if f.json {
		return printJSON(out, meta)
	}
	return f.printDescription(out, l, v, &meta.Data.Attributes)
}

// printDescription prints the parts of a description that are asked for.
func (f *flags) printDescription(out io.Writer, l *localImage, v inspectView, a *sif.Attributes) error {
	text := f.textFor(out)
	if v.deffile {
		fmt.Fprintln(out, text(a.Deffile))
	}
	if v.runscript {
		fmt.Fprintln(out, text(a.Runscript))
	}
	if v.environment {
		for _, name := range slices.Sorted(maps.Keys(a.Environment)) {
			fmt.Fprintf(out, "=== %s ===\n%s\n", printable(name), text(a.Environment[name]))
		}
	}
	if v.oci {
		if err := l.printOCI(out); err != nil {
			return fmt.Errorf("%s: %w", l.path, err)
		}
	}
	if v.layers {
		l.printObjects(out)
	}
	if v.labels {
		printLabels(out, a.Labels)
	}
	return nil
}

// inspectOCISIF prints what the image in an OCI-SIF says, whatever its layers
// are. It is not done if the file is something else.
func (f *flags) inspectOCISIF(cmd *cobra.Command, ref string, v inspectView) (done bool, err error) {
	path, err := localPath(ref)
	if err != nil {
		return false, nil
	}
	file, err := sif.Open(path)
	if err != nil {
		return false, nil
	}
	defer file.Close()
	if _, err := file.Primary(); !errors.Is(err, fs.ErrNotExist) || !slices.ContainsFunc(file.Objects(), isRootIndex) {
		return false, nil
	}
	img, err := convert.OCIImage(file)
	if err != nil {
		return true, fmt.Errorf("%s: %w", path, err)
	}
	err = f.printImage(cmd, img, sif.DefinitionFor("localimage", path), v)
	if v.layers && !f.json {
		(&localImage{sif: file}).printObjects(cmd.OutOrStdout())
	}
	return true, err
}

// textFor returns what makes a script or a definition file fit to be written to
// out: on a terminal nothing in it may steer that, elsewhere it stays what it is.
func (f *flags) textFor(out io.Writer) func(string) string {
	terminal := f.isTerminal(out)
	return func(s string) string {
		s = strings.TrimSuffix(s, "\n")
		if terminal {
			s = printableText(s)
		}
		return s
	}
}

// metadata returns what a SIF says of itself in its own object or, for an image
// without one, what its .singularity.d directory says.
func (l *localImage) metadata() (*sif.Metadata, error) {
	if l.sif != nil {
		meta, err := l.sif.Metadata()
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return meta, err
		}
	}
	meta := &sif.Metadata{Type: "container"}
	a := &meta.Data.Attributes
	a.Deffile = l.smallFile(".singularity.d/Singularity")
	a.Runscript = l.smallFile(".singularity.d/runscript")
	if text := l.smallFile(".singularity.d/labels.json"); text != "" {
		if err := json.Unmarshal([]byte(text), &a.Labels); err != nil {
			return nil, fmt.Errorf(".singularity.d/labels.json: %w", err)
		}
	}
	return meta, nil
}

// smallFile returns the text of a file of at most 1 MiB, or "" without one.
func (l *localImage) smallFile(name string) string {
	file, err := l.fsys().Open(name)
	if err != nil {
		return ""
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, 1<<20))
	if err != nil {
		return ""
	}
	return string(text)
}

func (l *localImage) printOCI(out io.Writer) error {
	config, err := l.ociConfig()
	if err != nil {
		return err
	}
	return printJSON(out, config)
}

func (l *localImage) printObjects(out io.Writer) {
	if l.sif == nil {
		return
	}
	fmt.Fprintf(out, "%-3s %-5s %-12s %-12s %-12s %s\n", "ID", "GROUP", "LINK", "OFFSET", "SIZE", "OBJECT")
	for _, o := range l.sif.Objects() {
		fmt.Fprintln(out, objectLine(o))
	}
}

// inspectLayers prints what the configuration and manifest of an OCI image say.
func (f *flags) inspectLayers(cmd *cobra.Command, ref string, v inspectView) error {
	opts, err := f.imageOptions()
	if err != nil {
		return err
	}
	img, err := image.Open(cmd.Context(), ref, opts)
	if err != nil {
		return err
	}
	return f.printImage(cmd, img, sif.DefinitionFor(string(img.Reference().Transport), img.Reference().String()), v)
}

func (f *flags) printImage(cmd *cobra.Command, img *image.Image, definition string, v inspectView) error {
	f.noteOffline(img.Reference(), img.Root(), img.Remembered())
	out, config := cmd.OutOrStdout(), img.Config()
	if f.json {
		return printJSON(out, newRemoteImage(img))
	}
	if v.deffile {
		fmt.Fprint(out, definition)
	}
	if v.runscript {
		fmt.Fprintf(out, "entrypoint %q\ncmd %q\n", config.Config.Entrypoint, config.Config.Cmd)
	}
	if v.environment {
		for _, e := range config.Config.Env {
			fmt.Fprintln(out, printable(e))
		}
	}
	if v.oci {
		if err := printJSON(out, config.Config); err != nil {
			return err
		}
	}
	if v.layers {
		for _, layer := range img.Layers() {
			fmt.Fprintf(out, "%s %10s %s\n", layer.Descriptor.Digest, byteCount(layer.Descriptor.Size), printable(layer.Descriptor.MediaType))
		}
	}
	if v.labels {
		printLabels(out, config.Config.Labels)
	}
	return nil
}

// remoteImage is `inspect --json` of an image in layers.
type remoteImage struct {
	Reference string         `json:"reference"`
	Digest    digest.Digest  `json:"digest"`
	MediaType string         `json:"mediaType"`
	Platform  image.Platform `json:"platform"`
	Created   *time.Time     `json:"created,omitempty"`
	Size      int64          `json:"size"` // of all layers as they are stored
	Layers    []remoteLayer  `json:"layers"`
	Config    any            `json:"config"`
}

type remoteLayer struct {
	Digest    digest.Digest `json:"digest"`
	DiffID    digest.Digest `json:"diffID"`
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`
}

func newRemoteImage(img *image.Image) remoteImage {
	config, desc := img.Config(), img.Descriptor()
	r := remoteImage{
		Reference: img.Reference().String(), Digest: desc.Digest, MediaType: desc.MediaType,
		Platform: img.Platform(), Created: config.Created, Config: config.Config,
	}
	for _, l := range img.Layers() {
		r.Size += l.Descriptor.Size
		r.Layers = append(r.Layers, remoteLayer{Digest: l.Descriptor.Digest, DiffID: l.DiffID, MediaType: l.Descriptor.MediaType, Size: l.Descriptor.Size})
	}
	return r
}

func printLabels(out io.Writer, labels map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		fmt.Fprintf(out, "%s: %s\n", printable(name), printable(labels[name]))
	}
}

func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// shortDigest is as much of a digest as people compare by eye.
func shortDigest(d digest.Digest) string {
	return d.Encoded()[:min(12, len(d.Encoded()))]
}
