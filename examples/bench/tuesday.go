package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hpcimg/examples/bench/images"
	"hpcimg/image"
)

// tuesdayFlags are the flags of bench patch-tuesday.
type tuesdayFlags struct {
	images      string
	only        []string
	compression []string
	places      []string
	dir         string
	apptainer   string
	singularity string
	peers       []string
	versions    int
	json        string
	plots       string
	profiles    string
}

func (o *tuesdayFlags) parse(args []string, stderr io.Writer) (err error) {
	f := flag.NewFlagSet("patch-tuesday", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.images, "images", "", "`directory` that bench images keeps the images in")
	only := f.String("only", "python", "`list` of images")
	compression := f.String("compression", "gzip,zstd", "`list` of compressors: gzip, zstd (level 3)")
	places := f.String("places", "disk,tmpfs,reflink", "`list` of places for our runs; reflink takes root and mkfs.xfs")
	f.StringVar(&o.dir, "dir", "", "where the temporary `directory` is made (default the system's)")
	f.StringVar(&o.apptainer, "apptainer", "", "`path` of Apptainer (default: on PATH)")
	f.StringVar(&o.singularity, "singularity", "", "`path` of SingularityCE (default: on PATH)")
	peers := f.String("peers", strings.Join(peerNames(), ","), "`list` of other programs to run; none is none")
	f.IntVar(&o.versions, "versions", len(images.Versions()), "`number` of versions, at most 5")
	f.StringVar(&o.json, "json", "", "write all figures to this `file`")
	f.StringVar(&o.plots, "plots", "", "write a plot for each table, in SVG, to this `directory`")
	f.StringVar(&o.profiles, "profiles", "", "leave CPU profiles of our runs in this `directory`")
	if err := parse(f, args, 0); err != nil {
		return err
	}
	if o.only, err = imageNames(f.Name(), *only, stderr); err != nil {
		return err
	}
	if o.compression, err = oneOf(f.Name(), "compression", *compression, []string{"gzip", "zstd"}, stderr); err != nil {
		return err
	}
	if o.places, err = oneOf(f.Name(), "places", *places, []string{placeDisk, placeTmpfs, placeReflink}, stderr); err != nil {
		return err
	}
	if *peers != "none" {
		if o.peers, err = oneOf(f.Name(), "peers", *peers, peerNames(), stderr); err != nil {
			return err
		}
	}
	if o.versions < 1 || o.versions > len(images.Versions()) {
		fmt.Fprintf(stderr, "bench patch-tuesday: -versions must be 1 to %d\n", len(images.Versions()))
		return errUsage
	}
	return nil
}

func oneOf(command, name, list string, known []string, stderr io.Writer) ([]string, error) {
	all := strings.Split(list, ",")
	for _, one := range all {
		if !slices.Contains(known, one) {
			fmt.Fprintf(stderr, "bench %s: -%s: %q is none of %s\n", command, name, one, strings.Join(known, ", "))
			return nil, errUsage
		}
	}
	return all, nil
}

// runTuesday converts the versions of images, one after the other, with every
// program that there is.
func runTuesday(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	var o tuesdayFlags
	if err := o.parse(args, stderr); err != nil {
		return err
	}
	b := tuesday{tuesdayFlags: o, stderr: stderr, programs: findPrograms(&o, stderr)}
	defer func() {
		if e := b.close(); err == nil {
			err = e
		}
	}()
	if err := b.open(ctx); err != nil {
		return err
	}
	r := tuesdayReport{Machine: thisMachine(), Programs: b.programs.versions(ctx)}
	for _, name := range o.only {
		in, err := b.input(ctx, name)
		if err != nil {
			return err
		}
		for _, compression := range o.compression {
			t, err := b.hold(ctx, in, compression)
			if err != nil {
				return err
			}
			r.Tables = append(r.Tables, *t)
		}
	}
	r.Machine.LoadEnd = loadAverage()
	if err := r.write(stdout); err != nil {
		return err
	}
	if o.plots != "" {
		if err := r.plot(o.plots); err != nil {
			return err
		}
	}
	if o.json == "" {
		return nil
	}
	return writeJSON(o.json, r)
}

// tuesday is one run of bench patch-tuesday.
type tuesday struct {
	tuesdayFlags
	stderr   io.Writer
	programs programs
	places   places
}

func (b *tuesday) open(ctx context.Context) (err error) {
	if b.profiles != "" {
		if err := os.MkdirAll(b.profiles, 0o755); err != nil {
			return err
		}
	}
	b.places, err = makePlaces(ctx, b.dir, b.tuesdayFlags.places, b.stderr)
	return err
}

func (b *tuesday) close() error { return b.places.close() }

// tuesdayInput is an image to convert.
type tuesdayInput struct {
	Name    string `json:"name"`
	Layers  int    `json:"layers"`
	Stored  int64  `json:"stored"`  // bytes of the layers as they are
	Tar     int64  `json:"tar"`     // and uncompressed
	Visible int64  `json:"visible"` // bytes of files in the image
	Entries int    `json:"entries"`

	layout  string
	digests map[string]string // of manifests, by tag
}

func (in *tuesdayInput) String() string {
	return fmt.Sprintf("image %s: %d layers, %.0f MB as stored, %.0f MB uncompressed; %d entries and %.0f MB of files are visible",
		in.Name, in.Layers, float64(in.Stored)/1e6, float64(in.Tar)/1e6, in.Entries, float64(in.Visible)/1e6)
}

// input makes the image if need be, and looks at it.
func (b *tuesday) input(ctx context.Context, name string) (*tuesdayInput, error) {
	layout, err := makeImage(ctx, b.images, name, b.stderr)
	if err != nil {
		return nil, err
	}
	return b.lookAt(ctx, name, layout)
}

// lookAt converts an image once, without looking at the clock: to know what is
// in it, and to have the layers in the page cache.
func (b *tuesday) lookAt(ctx context.Context, name, layout string) (*tuesdayInput, error) {
	in := &tuesdayInput{Name: name, layout: layout, digests: make(map[string]string)}
	for _, version := range append(images.Versions(), images.Rebuilt) {
		img, err := image.Open(ctx, images.Reference(layout, version), nil)
		if err != nil {
			return nil, err
		}
		in.digests[version] = img.Root().Digest.String()
	}
	out := filepath.Join(b.places.disk, "input.sif")
	p, err := ours("convert", "-comp", "lz4", "-count", images.Reference(layout, "v1"), out)
	if err != nil {
		return nil, err
	}
	_, text, err := p.run(ctx)
	if err != nil {
		return nil, err
	}
	var made converted
	if err := json.Unmarshal(text, &made); err != nil {
		return nil, err
	}
	in.Layers, in.Visible, in.Entries = len(made.Layers), made.Bytes, made.Entries
	for _, l := range made.Layers {
		in.Stored += l.Size
		in.Tar += l.Tar
	}
	fmt.Fprintln(b.stderr, in)
	return in, os.Remove(out)
}

// hold converts all versions of an image with all contenders, who take turns.
func (b *tuesday) hold(ctx context.Context, in *tuesdayInput, compression string) (t *tuesdayTable, err error) {
	contenders := b.contenders(in, compression)
	t = &tuesdayTable{Input: *in, Compression: compression}
	order := make([]int, len(contenders))
	for i, c := range contenders {
		order[i] = i
		t.Results = append(t.Results, tuesdayResult{Program: c.program, Setting: c.setting, Place: c.place.name, Reference: c.reference})
		for _, dir := range []string{c.dir, c.path("tmp"), c.path("cache")} {
			if err := os.Mkdir(dir, 0o755); err != nil {
				return nil, err
			}
		}
		defer func() {
			if e := os.RemoveAll(c.dir); err == nil {
				err = e
			}
		}()
	}
	for _, version := range append(images.Versions()[:b.versions:b.versions], images.Rebuilt) {
		for _, i := range order {
			c := contenders[i]
			if version == images.Rebuilt && !c.rebuilt {
				continue
			}
			run, err := c.once(ctx, version)
			if err != nil {
				return nil, err
			}
			t.Results[i].Runs = append(t.Results[i].Runs, run)
			fmt.Fprintf(b.stderr, "%s %s %s: %s %s (%s): %.1f s, %.1f s CPU\n", in.Name, compression, version,
				c.program, c.setting, c.place.name, run.Wall.Seconds(), run.CPU.Seconds())
		}
		slices.Reverse(order)
	}
	return t, nil
}

func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}
