package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// contender is one way of doing what a contest is about.
type contender struct {
	program string
	setting string
	// reference marks the contender that the others are compared with. There
	// is at most one in a contest; if it is missing, the first one serves.
	reference bool
	process   process
}

// contest is a number of contenders that make the same thing at the same path,
// of which only the last one's stays until the next comes.
type contest struct {
	name       string
	title      string
	out        string
	alone      bool // there is nothing to compare
	contenders []contender
}

// result is how a contender fared.
type result struct {
	Program   string `json:"program"`
	Setting   string `json:"setting"`
	Reference bool   `json:"reference,omitempty"`
	Runs      []cost `json:"runs"`
}

// table is a contest that is over.
type table struct {
	Name    string   `json:"name"`
	Title   string   `json:"title"`
	Input   int64    `json:"input"` // bytes of file contents
	Alone   bool     `json:"alone,omitempty"`
	Results []result `json:"results"`
}

// hold runs all contenders, round by round, every other round backwards.
func (c *contest) hold(ctx context.Context, rounds int, progress io.Writer) (*table, error) {
	t := &table{Name: c.name, Title: c.title, Alone: c.alone, Results: make([]result, len(c.contenders))}
	order := make([]int, len(c.contenders))
	for i, p := range c.contenders {
		order[i] = i
		t.Results[i] = result{Program: p.program, Setting: p.setting, Reference: p.reference}
	}
	for round := range rounds {
		for _, i := range order {
			run, err := c.once(ctx, c.contenders[i])
			if err != nil {
				return nil, err
			}
			t.Results[i].Runs = append(t.Results[i].Runs, run)
			fmt.Fprintf(progress, "%s: round %d of %d: %s %s: %.1f s CPU, %.1f s\n", c.name, round+1, rounds,
				c.contenders[i].program, c.contenders[i].setting, run.CPU.Seconds(), run.Wall.Seconds())
		}
		slices.Reverse(order)
	}
	return t, os.RemoveAll(c.out)
}

func (c *contest) once(ctx context.Context, p contender) (cost, error) {
	if err := os.RemoveAll(c.out); err != nil {
		return cost{}, err
	}
	run, _, err := p.process.run(ctx)
	if err != nil {
		return cost{}, err
	}
	info, err := os.Stat(c.out)
	if err != nil {
		return cost{}, err
	}
	if info.Mode().IsRegular() {
		run.Size = info.Size()
	}
	return run, nil
}

// median returns the median of what value says of the runs.
func (r *result) median(value func(cost) int64) int64 {
	if len(r.Runs) == 0 {
		return 0
	}
	all := make([]int64, len(r.Runs))
	for i, run := range r.Runs {
		all[i] = value(run)
	}
	slices.Sort(all)
	n := len(all)
	return (all[(n-1)/2] + all[n/2]) / 2
}

func (r *result) cpu() time.Duration {
	return time.Duration(r.median(func(c cost) int64 { return int64(c.CPU) }))
}

func (r *result) wall() time.Duration {
	return time.Duration(r.median(func(c cost) int64 { return int64(c.Wall) }))
}
func (r *result) size() int64 { return r.median(func(c cost) int64 { return c.Size }) }

// rss is a maximum: it is a promise that is asked for.
func (r *result) rss() (most int64) {
	for _, run := range r.Runs {
		most = max(most, run.RSS)
	}
	return most
}

// spread returns how far the runs' CPU times are from the median, at most.
func (r *result) spread() float64 {
	mid := r.cpu()
	if mid == 0 {
		return 0
	}
	var far time.Duration
	for _, run := range r.Runs {
		far = max(far, (run.CPU - mid).Abs())
	}
	return float64(far) / float64(mid)
}

// reference returns the result that others are compared with.
func (t *table) reference() *result {
	for i := range t.Results {
		if t.Results[i].Reference {
			return &t.Results[i]
		}
	}
	return &t.Results[0]
}
