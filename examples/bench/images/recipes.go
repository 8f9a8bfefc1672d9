package images

import (
	"archive/tar"
	"context"
	"time"
)

const baseName = "base"

// recipe is how to make an image on top of the base, or the base itself.
type recipe struct {
	name    string
	steps   []step
	largest int // number of the largest layer, the base being 0
	cmd     []string
}

// step makes a layer: of what a shell script changes, or of what fill makes up.
type step struct {
	name   string
	script string
	fill   func(ctx context.Context, tw *tar.Writer) error
}

// layer writes the step's layer to the file out.
func (s step) layer(ctx context.Context, p *pot, out string) error {
	switch {
	case s.fill != nil:
		return writeLayer(out, func(tw *tar.Writer) error { return s.fill(ctx, tw) })
	case s.script != "":
		return p.run(ctx, s.script, out)
	}
	return p.debootstrap(ctx, out)
}

// installs says whether any step needs the root file system in a directory.
func (r recipe) installs() bool {
	for _, s := range r.steps {
		if s.fill == nil {
			return true
		}
	}
	return false
}

// buildTime is what times that are made up count from.
func buildTime() time.Time { return time.Date(2025, 1, 14, 6, 0, 0, 0, time.UTC) }

const (
	// The package lists, the packages and the documents stay in their layers, as they do in many an image.
	update  = "apt-get -q update"
	install = "DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install "
	cleanUp = "apt-get clean && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /usr/share/doc /usr/share/man /var/log/*.log /var/log/apt"
)

// recipes returns all recipes. The base is first.
func recipes() []recipe {
	return []recipe{
		{name: baseName, steps: []step{{name: "debootstrap"}}, cmd: []string{"/bin/sh"}},
		{
			name: "python",
			steps: []step{
				{name: "install Python and NumPy", script: update + " && " + install + "python3 python3-numpy"},
				{name: "install Pandas", script: install + "python3-pandas python3-numexpr python3-bottleneck"},
				{name: "clean up", script: cleanUp},
			},
			largest: 1, cmd: []string{"/usr/bin/python3"},
		},
		{
			name: "mpi",
			steps: []step{
				{name: "install Open MPI", script: update + " && " + install + "openmpi-bin libopenmpi-dev gcc libc6-dev"},
				{name: "clean up", script: cleanUp},
			},
			largest: 1, cmd: []string{"/bin/sh"},
		},
		{name: "conda", steps: []step{{name: "make up 60,000 files", fill: fillConda}}, largest: 1, cmd: []string{"/bin/sh"}},
	}
}
