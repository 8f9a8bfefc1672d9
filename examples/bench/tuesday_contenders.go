package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"hpcimg/examples/bench/images"
)

// programs are the paths of other programs, "" for those that there are not.
type programs struct {
	apptainer, singularity, umoci, mksquashfs, tar2sqfs, chConvert string
}

// peerNames are the other programs that can be run. All but the first two take umoci, too.
func peerNames() []string {
	return []string{"apptainer", "singularity", "mksquashfs", "tar2sqfs", "ch-convert"}
}

func findPrograms(o *tuesdayFlags, stderr io.Writer) (p programs) {
	for name, path := range map[string]*string{
		"apptainer": &p.apptainer, "singularity": &p.singularity, "mksquashfs": &p.mksquashfs, "tar2sqfs": &p.tar2sqfs, "ch-convert": &p.chConvert,
	} {
		if slices.Contains(o.peers, name) {
			*path = o.path(name, stderr)
		}
	}
	if p.singularity != "" && o.singularity == "" && isApptainer(p.singularity) {
		p.singularity = "" // a name that Apptainer has, too
	}
	if p.mksquashfs+p.tar2sqfs+p.chConvert != "" {
		p.umoci = lookUp(stderr, "umoci")
	}
	return p
}

// path returns where a program is: where a flag says, or on PATH.
func (o *tuesdayFlags) path(name string, stderr io.Writer) string {
	switch {
	case name == "apptainer" && o.apptainer != "":
		return o.apptainer
	case name == "singularity" && o.singularity != "":
		return o.singularity
	}
	return lookUp(stderr, name)
}

func isApptainer(path string) bool {
	target, err := filepath.EvalSymlinks(path)
	return err == nil && filepath.Base(target) == "apptainer"
}

// versions returns what the programs call themselves.
func (p programs) versions(ctx context.Context) []string {
	var all []string
	for _, argv := range [][]string{
		{p.apptainer, "--version"},
		{p.singularity, "--version"},
		{p.umoci, "--version"},
		{p.mksquashfs, "-version"},
		{p.tar2sqfs, "--version"},
		{p.chConvert, "--version"},
	} {
		if argv[0] == "" {
			continue
		}
		// Some exit with 1 after they have said it.
		out, _ := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
		first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		name := filepath.Base(argv[0])
		if !strings.Contains(first, name) {
			first = name + " " + first
		}
		all = append(all, first)
	}
	return all
}

// tuesdayContender is one way of making a file of each version of an image.
type tuesdayContender struct {
	program, setting string
	place            place
	reference        bool
	rebuilt          bool   // has something to say about a layer that was built again
	dir              string // all that it writes is below
	in               *tuesdayInput
	suffix           string
	// steps returns the processes that make out of a version. previous is what
	// was made of the version before, "" at first.
	steps func(c *tuesdayContender, version, out, previous string) ([]process, error)

	made []string // files
}

func (c *tuesdayContender) path(name string) string { return filepath.Join(c.dir, name) }

func (c *tuesdayContender) ref(version string) string {
	return images.Reference(c.in.layout, version)
}

// tuesdayRun is what a version took.
type tuesdayRun struct {
	Version string `json:"version"`
	cost
	Left int64 `json:"left"` // bytes that stay beside the results: caches, and what was forgotten
}

// once makes a version. Of those before only the last stays.
func (c *tuesdayContender) once(ctx context.Context, version string) (run tuesdayRun, err error) {
	run.Version = version
	out, previous := c.path(version+c.suffix), ""
	if n := len(c.made); n > 0 {
		previous = c.made[n-1]
	}
	steps, err := c.steps(c, version, out, previous)
	if err != nil {
		return run, err
	}
	for _, step := range steps {
		one, _, err := step.run(ctx)
		if err != nil {
			return run, err
		}
		run.Wall += one.Wall
		run.CPU += one.CPU
		run.RSS = max(run.RSS, one.RSS)
		run.Written += one.Written
	}
	info, err := os.Stat(out)
	if err != nil {
		return run, err
	}
	run.Size = info.Size()
	if previous != "" {
		if err := os.Remove(previous); err != nil {
			return run, err
		}
	}
	c.made = append(c.made, out)
	run.Left, err = used(c.dir, out)
	return run, err
}

// used adds up the sizes of the files in dir, apart from one.
func used(dir, except string) (sum int64, err error) {
	err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || name == except {
			return err
		}
		info, err := d.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	return sum, err
}

// contenders returns all that can be held with the programs and places at hand.
func (b *tuesday) contenders(in *tuesdayInput, compression string) []*tuesdayContender {
	var list []*tuesdayContender
	add := func(c tuesdayContender) {
		c.in = in
		c.dir = filepath.Join(c.place.dir, fmt.Sprintf("contender-%d", len(list)))
		list = append(list, &c)
	}
	disk := place{placeDisk, b.places.disk}
	level := map[string]string{"gzip": "6", "zstd": "3"}[compression]
	if p := b.programs.apptainer; p != "" {
		add(tuesdayContender{program: "apptainer", setting: peerSetting(compression), place: disk, reference: true, suffix: ".sif", steps: apptainer(p, "APPTAINER", compression)})
	}
	if p := b.programs.singularity; p != "" && compression == "gzip" { // it has no say in the matter
		add(tuesdayContender{program: "singularity", setting: peerSetting(compression), place: disk, suffix: ".sif", steps: apptainer(p, "SINGULARITY", compression)})
	}
	if b.programs.umoci != "" {
		b.addUnpacking(compression, disk, add)
	}
	for _, p := range b.places.all() {
		for _, mode := range []string{"no cache", "cache", "reuse"} {
			if mode == "no cache" && p.name == placeReflink {
				continue // there is nothing to link to
			}
			add(tuesdayContender{
				program: "hpcimg", setting: compression + " " + level + ", " + mode, place: p, rebuilt: mode != "no cache", suffix: ".sif",
				steps: b.hpcimg(mode, compression, level),
			})
		}
	}
	return list
}

// peerSetting names what Apptainer is made to do: gzip as it comes is level 9.
func peerSetting(compression string) string {
	return map[string]string{"gzip": "gzip 9", "zstd": "zstd 3"}[compression]
}

// hpcimg converts with our packages.
func (b *tuesday) hpcimg(mode, compression, level string) func(*tuesdayContender, string, string, string) ([]process, error) {
	return func(c *tuesdayContender, version, out, previous string) ([]process, error) {
		args := []string{"convert", "-comp", compression, "-level", level}
		if b.profiles != "" {
			name := strings.Join([]string{c.in.Name, compression, c.place.name, strings.ReplaceAll(mode, " ", "-"), version}, "-")
			args = append(args, "-profile", filepath.Join(b.profiles, name+".pprof"))
		}
		switch {
		case mode == "cache":
			args = append(args, "-cache", c.path("cache"))
		case mode == "reuse" && previous != "":
			args = append(args, "-reuse", previous)
		}
		p, err := ours(append(args, c.ref(version), out)...)
		return []process{p}, err
	}
}

// apptainer builds a SIF with Apptainer or SingularityCE, whose caches and
// temporary directories are the contender's own. They know images of a layout
// by digest only.
func apptainer(program, prefix, compression string) func(*tuesdayContender, string, string, string) ([]process, error) {
	return func(c *tuesdayContender, version, out, _ string) ([]process, error) {
		argv := []string{program, "build", "--force"}
		if compression == "zstd" {
			argv = append(argv, "--mksquashfs-args", "-comp zstd -Xcompression-level 3")
		}
		return []process{{
			argv: append(argv, out, "oci:"+c.in.layout+"@"+c.in.digests[version]),
			env:  []string{prefix + "_CACHEDIR=" + c.path("cache"), prefix + "_TMPDIR=" + c.path("tmp")},
		}}, nil
	}
}

// addUnpacking adds what people do by hand: unpack, then pack.
func (b *tuesday) addUnpacking(compression string, disk place, add func(tuesdayContender)) {
	level := peerSetting(compression)
	unpack := func(program, setting string, pack func(rootfs, out string) process) {
		add(tuesdayContender{program: program, setting: setting, place: disk, suffix: ".sqfs", steps: func(c *tuesdayContender, version, out, _ string) ([]process, error) {
			rootfs := c.path("tmp/rootfs")
			argv := []string{b.programs.umoci, "raw", "unpack", "--image", strings.TrimPrefix(c.ref(version), "oci:"), rootfs}
			if os.Geteuid() != 0 {
				argv = append(argv, "--rootless")
			}
			return []process{{argv: argv}, pack(rootfs, out), {argv: []string{"rm", "-r", rootfs}}}, nil
		}})
	}
	if p := b.programs.mksquashfs; p != "" {
		mksquashfs := func(setting string, options ...string) {
			unpack("umoci, mksquashfs", setting, func(rootfs, out string) process {
				argv := []string{p, rootfs, out, "-comp", compression, "-noappend", "-no-progress", "-quiet"}
				return process{argv: append(argv, options...)}
			})
		}
		if compression == "zstd" {
			mksquashfs("zstd 3", "-Xcompression-level", "3")
		} else {
			mksquashfs("gzip 9") // the default, and Apptainer's
			mksquashfs("gzip 6", "-Xcompression-level", "6")
		}
	}
	if p := b.programs.tar2sqfs; p != "" {
		unpack("umoci, tar2sqfs", level, func(rootfs, out string) process {
			options := ""
			if compression == "zstd" {
				options = " -X level=3"
			}
			return process{argv: []string{"sh", "-c", fmt.Sprintf(`tar -C "$1" -c . | "$0" -q -f -j $(nproc) -c %s%s "$2"`, compression, options), p, rootfs, out}}
		})
	}
	if p := b.programs.chConvert; p != "" && compression == "gzip" { // it has no say in the matter
		unpack("umoci, ch-convert", level, func(rootfs, out string) process {
			return process{argv: []string{p, "-i", "dir", "-o", "squash", rootfs, out}}
		})
	}
}
