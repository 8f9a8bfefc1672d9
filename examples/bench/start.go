package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// startFlags are the flags of bench start.
type startFlags struct {
	hpcimg string
	launch string
	dir    string
	sif    string
	sqfs   string
	uid    int
	rounds int
	only   *regexp.Regexp
	memory []int64
	json   string
}

func (o *startFlags) parse(args []string, stderr io.Writer) error {
	f := flag.NewFlagSet("start", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.hpcimg, "hpcimg", "hpcimg", "`path` of the command line to measure")
	f.StringVar(&o.launch, "launch", "", "`path` of examples/launch, the smallest program around package runtime")
	f.StringVar(&o.dir, "root", "", "`directory` that an image is unpacked in")
	f.StringVar(&o.sif, "sif", "", "the same image as a SIF `file`")
	f.StringVar(&o.sqfs, "sqfs", "", "the same image as a squashfs `file`, for ch-run")
	f.IntVar(&o.uid, "uid", 1000, "`user` to be for what root does not measure")
	f.IntVar(&o.rounds, "rounds", 40, "`number` of rounds")
	only := f.String("only", "", "`regular expression` of contenders")
	ballast := f.String("memory", "", "`list` of MiB that a caller uses: measures starts by the library instead")
	f.StringVar(&o.json, "json", "", "write all figures to this `file`")
	if err := parse(f, args, 0); err != nil {
		return err
	}
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		fmt.Fprintf(stderr, "bench start: -only: %v\n", err)
		return errUsage
	}
	if *ballast != "" {
		for s := range strings.SplitSeq(*ballast, ",") {
			var mib int64
			if _, err := fmt.Sscan(s, &mib); err != nil || mib < 0 {
				fmt.Fprintf(stderr, "bench start: -memory %s: not a list of numbers\n", *ballast)
				return errUsage
			}
			o.memory = append(o.memory, mib<<20)
		}
	}
	if o.dir == "" && o.sif == "" {
		fmt.Fprintln(stderr, "bench start: neither -root nor -sif is given")
		return errUsage
	}
	return nil
}

// startResult is how long the starts of a contender took.
type startResult struct {
	Name string          `json:"name"`
	User bool            `json:"user"` // an ordinary one
	Runs []time.Duration `json:"runs_ns"`
}

func (r *startResult) quantile(q float64) time.Duration {
	if len(r.Runs) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(r.Runs))
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}

func (r *startResult) median() time.Duration { return r.quantile(0.5) }

// startReport is all that bench start has to say.
type startReport struct {
	Machine machine        `json:"machine"`
	Load    string         `json:"load"`
	Results []*startResult `json:"results"`
}

func (r *startReport) write(w io.Writer) error {
	var b strings.Builder
	r.Machine.write(&b)
	fmt.Fprintf(&b, "\n")
	ms := func(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()*1000) }
	rows := [][]string{{"start", "median", "least", "95 %", "of the first"}}
	for _, res := range r.Results {
		name := res.Name
		if !res.User {
			name += " (root)"
		}
		rows = append(rows, []string{
			name, ms(res.median()), ms(res.quantile(0)), ms(res.quantile(0.95)),
			fmt.Sprintf("%.2f", float64(res.median())/float64(r.Results[0].median())),
		})
	}
	writeRows(&b, rows)
	_, err := io.WriteString(w, b.String())
	return err
}

func runStart(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o startFlags
	if err := o.parse(args, stderr); err != nil {
		return err
	}
	r := &startReport{Machine: thisMachine(), Load: loadAverage()}
	var err error
	if o.memory != nil {
		r.Results, err = o.measureMemory(ctx)
	} else {
		r.Results, err = o.measure(ctx, stderr)
	}
	if err != nil {
		return err
	}
	if o.json != "" {
		data, err := json.MarshalIndent(r, "", "\t")
		if err != nil {
			return err
		}
		if err := os.WriteFile(o.json, append(data, '\n'), 0o644); err != nil {
			return err
		}
	}
	return r.write(stdout)
}
