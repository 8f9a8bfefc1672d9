package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hpcimg/examples/bench/images"
)

// tuesdayResult is how a contender fared.
type tuesdayResult struct {
	Program   string       `json:"program"`
	Setting   string       `json:"setting"`
	Place     string       `json:"place"`
	Reference bool         `json:"reference,omitempty"`
	Runs      []tuesdayRun `json:"runs"` // in the order of versions
}

// tuesdayTable is an image converted by all.
type tuesdayTable struct {
	Input       tuesdayInput    `json:"input"`
	Compression string          `json:"compression"`
	Results     []tuesdayResult `json:"results"`
}

// tuesdayReport is all of what a run of bench patch-tuesday has found.
type tuesdayReport struct {
	Machine  machine        `json:"machine"`
	Programs []string       `json:"programs"`
	Tables   []tuesdayTable `json:"tables"`
}

func (r *tuesdayReport) write(w io.Writer) error {
	var b strings.Builder
	r.Machine.write(&b)
	fmt.Fprintf(&b, "beside: %s\n", strings.Join(r.Programs, "; "))
	for i := range r.Tables {
		r.Tables[i].write(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// run returns the run of a version, nil if there is none.
func (r *tuesdayResult) run(version string) *tuesdayRun {
	for i := range r.Runs {
		if r.Runs[i].Version == version {
			return &r.Runs[i]
		}
	}
	return nil
}

// first returns the run of v1.
func (r *tuesdayResult) first() *tuesdayRun { return r.run(images.Versions()[0]) }

// later returns the median of the versions after the first.
func (r *tuesdayResult) later(value func(cost) int64) int64 {
	var runs result
	for _, run := range r.Runs {
		if run.Version != images.Versions()[0] && run.Version != images.Rebuilt {
			runs.Runs = append(runs.Runs, run.cost)
		}
	}
	return runs.median(value)
}

func wallOf(c cost) int64    { return int64(c.Wall) }
func cpuOf(c cost) int64     { return int64(c.CPU) }
func writtenOf(c cost) int64 { return c.Written }

// name is what a row is called.
func (r *tuesdayResult) name() string {
	if r.Place == placeDisk {
		return r.Setting
	}
	return r.Setting + ", " + r.Place
}

// reference returns the result that others are compared with: the one that is
// marked or, failing that, the first.
func (t *tuesdayTable) reference() *tuesdayResult {
	for i := range t.Results {
		if t.Results[i].Reference {
			return &t.Results[i]
		}
	}
	return &t.Results[0]
}

func (t *tuesdayTable) title() string { return t.Input.Name + ", " + t.Compression }

func (t *tuesdayTable) write(b *strings.Builder) {
	fmt.Fprintf(b, "\n### %s\n\n%v\n\n", t.title(), &t.Input)
	heads := []string{"program", "setting"}
	for _, version := range append(images.Versions(), "rebuilt") {
		heads = append(heads, version+" s")
	}
	heads = append(heads, "v1 CPU s", "later CPU s", "rebuilt CPU s", "ref / v1", "ref / later", "CPU ref / v1", "CPU ref / later",
		"peak MB", "v1 written MB", "later written MB", "left MB", "size MB")
	rows := [][]string{heads}
	ref := t.reference()
	for i := range t.Results {
		rows = append(rows, t.Results[i].row(ref))
	}
	writeRows(b, rows)
}

func (r *tuesdayResult) row(ref *tuesdayResult) []string {
	name := r.Program
	if r == ref {
		name += " (ref)"
	}
	row := []string{name, r.name()}
	for _, version := range append(images.Versions(), images.Rebuilt) {
		cell := ""
		if run := r.run(version); run != nil {
			cell = fmt.Sprintf("%.2f", run.Wall.Seconds())
		}
		row = append(row, cell)
	}
	rebuilt := ""
	if run := r.run(images.Rebuilt); run != nil {
		rebuilt = fmt.Sprintf("%.2f", run.CPU.Seconds())
	}
	v1, most, last := r.first(), int64(0), r.Runs[len(r.Runs)-1]
	for _, run := range r.Runs {
		most = max(most, run.RSS)
	}
	seconds := func(ns int64) float64 { return time.Duration(ns).Seconds() }
	return append(row,
		fmt.Sprintf("%.2f", v1.CPU.Seconds()),
		fmt.Sprintf("%.2f", seconds(r.later(cpuOf))),
		rebuilt,
		quotient("%.1f", ref.first().Wall.Seconds(), v1.Wall.Seconds()),
		quotient("%.1f", seconds(ref.later(wallOf)), seconds(r.later(wallOf))),
		quotient("%.1f", ref.first().CPU.Seconds(), v1.CPU.Seconds()),
		quotient("%.1f", seconds(ref.later(cpuOf)), seconds(r.later(cpuOf))),
		quotient("%.0f", float64(most), 1e6),
		fmt.Sprintf("%.0f", float64(v1.Written)/1e6),
		fmt.Sprintf("%.0f", float64(r.later(writtenOf))/1e6),
		fmt.Sprintf("%.0f", float64(last.Left)/1e6),
		fmt.Sprintf("%.1f", float64(v1.Size)/1e6),
	)
}

// plot writes a plot for each table to dir.
func (r *tuesdayReport) plot(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for i := range r.Tables {
		t := &r.Tables[i]
		var bars []bar
		for j := range t.Results {
			bars = append(bars, t.Results[j].bar())
		}
		title := fmt.Sprintf("Five versions of an image of %.0f MB (%s), one after the other", float64(t.Input.Visible)/1e6, t.title())
		name := fmt.Sprintf("patch-tuesday-%s-%s.svg", t.Input.Name, t.Compression)
		if err := os.WriteFile(filepath.Join(dir, name), plotBars(title, "seconds", bars), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (r *tuesdayResult) bar() bar {
	b := bar{label: r.Program + " " + r.name()}
	for _, run := range r.Runs {
		if slices.Contains(images.Versions(), run.Version) {
			b.parts = append(b.parts, run.Wall.Seconds())
		}
	}
	return b
}
