package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
	"unicode/utf8"
)

// report is all of what a run of bench has found.
type report struct {
	Machine machine `json:"machine"`
	Input   traits  `json:"input"`
	Tables  []table `json:"tables"`
}

// machine is what figures depend on beside the program.
type machine struct {
	OS       string    `json:"os"`
	CPU      string    `json:"cpu"`
	CPUs     int       `json:"cpus"`
	Go       string    `json:"go"`
	Revision string    `json:"revision"`
	Load     string    `json:"load"` // averages of 1, 5 and 15 minutes at the start
	LoadEnd  string    `json:"load_end"`
	Time     time.Time `json:"time"`
}

func thisMachine() machine {
	m := machine{
		OS: runtime.GOOS + "/" + runtime.GOARCH, CPU: "unknown", CPUs: runtime.NumCPU(),
		Go: runtime.Version(), Revision: "unknown", Load: loadAverage(), Time: time.Now().UTC().Truncate(time.Second),
	}
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, s := range b.Settings {
			if s.Key == "vcs.revision" {
				m.Revision = s.Value[:min(12, len(s.Value))]
			}
		}
	}
	return m
}

// loadAverage returns how many processes have been running on this machine.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	f := strings.Fields(string(b))
	if err != nil || len(f) < 3 {
		return "unknown"
	}
	return strings.Join(f[:3], " ")
}

func (m machine) write(b *strings.Builder) {
	fmt.Fprintf(b, "%s, %d × %s, %s, revision %s\n", m.OS, m.CPUs, m.CPU, m.Go, m.Revision)
	fmt.Fprintf(b, "load average %s at the start, %s at the end\n", m.Load, m.LoadEnd)
}

// write prints the tables in Markdown.
func (r *report) write(w io.Writer) error {
	var b strings.Builder
	r.Machine.write(&b)
	fmt.Fprintf(&b, "input: %v\n", r.Input)
	for i := range r.Tables {
		r.Tables[i].write(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *report) writeJSON(path string) error {
	return writeJSON(path, r)
}

func (t *table) write(b *strings.Builder) {
	fmt.Fprintf(b, "\n### %s\n\n", t.Title)
	rows := [][]string{{"program", "setting", "wall s", "CPU s", "±", "MB/CPU s", "peak MB", "size MB", "CPU / ref", "ref / CPU", "size / ref"}}
	ref := t.reference()
	if t.Alone {
		ref = &result{}
	}
	for i := range t.Results {
		r := &t.Results[i]
		name := r.Program
		if r == ref {
			name += " (ref)"
		}
		rows = append(rows, []string{
			name, r.Setting,
			fmt.Sprintf("%.2f", r.wall().Seconds()),
			fmt.Sprintf("%.2f", r.cpu().Seconds()),
			fmt.Sprintf("%.0f %%", 100*r.spread()),
			quotient("%.0f", float64(t.Input)/1e6, r.cpu().Seconds()),
			quotient("%.0f", float64(r.rss()), 1e6),
			quotient("%.2f", float64(r.size()), 1e6),
			quotient("%.2f", r.cpu().Seconds(), ref.cpu().Seconds()),
			quotient("%.1f", ref.cpu().Seconds(), r.cpu().Seconds()),
			quotient("%.3f", float64(r.size()), float64(ref.size())),
		})
	}
	writeRows(b, rows)
}

// quotient prints a/b, or nothing if one of them is not known.
func quotient(format string, a, b float64) string {
	if a == 0 || b == 0 {
		return ""
	}
	return fmt.Sprintf(format, a/b)
}

// writeRows prints a table whose first row has the headings. Columns without
// a value are left out; all but the first two are numbers.
func writeRows(b *strings.Builder, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows[1:] {
		for i, cell := range row {
			if cell != "" {
				widths[i] = max(widths[i], utf8.RuneCountInString(cell), utf8.RuneCountInString(rows[0][i]))
			}
		}
	}
	for n, row := range rows {
		for i, cell := range row {
			switch {
			case widths[i] == 0:
			case i < 2:
				fmt.Fprintf(b, "| %-*s ", widths[i], cell)
			default:
				fmt.Fprintf(b, "| %*s ", widths[i], cell)
			}
		}
		b.WriteString("|\n")
		if n == 0 {
			writeRule(b, widths)
		}
	}
}

func writeRule(b *strings.Builder, widths []int) {
	for i, n := range widths {
		switch {
		case n == 0:
		case i < 2:
			fmt.Fprintf(b, "| %s ", strings.Repeat("-", n))
		default:
			fmt.Fprintf(b, "| %s: ", strings.Repeat("-", n-1))
		}
	}
	b.WriteString("|\n")
}
