package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// row is one measure, by contender.
type row struct {
	name    string
	samples map[string][]time.Duration
}

// table collects what was measured. It is not safe for concurrent use.
type table struct {
	rows       []*row
	contenders []string // in the order of their first sample, the one all are compared with first
	notes      []string
}

func newTable() *table { return &table{} }

// add records one sample.
func (t *table) add(measure, contender string, d time.Duration) {
	i := slices.IndexFunc(t.rows, func(r *row) bool { return r.name == measure })
	if i < 0 {
		i = len(t.rows)
		t.rows = append(t.rows, &row{measure, make(map[string][]time.Duration)})
	}
	if !slices.Contains(t.contenders, contender) {
		t.contenders = append(t.contenders, contender)
	}
	t.rows[i].samples[contender] = append(t.rows[i].samples[contender], d)
}

func (t *table) note(format string, args ...any) {
	t.notes = append(t.notes, fmt.Sprintf(format, args...))
}

// median returns the middle sample, the lower of the two middle ones if their number is even.
func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[(len(s)-1)/2]
}

// write prints the table in Markdown: milliseconds and, behind them, the ratio to the first contender
// of the row.
func (t *table) write(w io.Writer, o options) error {
	var b strings.Builder
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return err
	}
	fmt.Fprintf(&b, "Medians of %d rounds in ms, and as a ratio to the first column; %sLinux %s, %d CPUs.\n\n",
		o.rounds, o.where(), strings.TrimSpace(string(kernel)), cpus())
	// Driver and Docker level have different contenders; a row is printed in the table of its own.
	for _, group := range t.groups() {
		fmt.Fprintf(&b, "| | %s |\n|---|%s\n", strings.Join(group.contenders, " | "), strings.Repeat("---:|", len(group.contenders)))
		for _, r := range group.rows {
			fmt.Fprintf(&b, "| %s |", r.name)
			for _, c := range group.contenders {
				b.WriteString(r.cell(c, group.contenders[0]))
			}
			b.WriteString("\n")
		}
		b.WriteString("\n")
	}
	for _, n := range t.notes {
		fmt.Fprintf(&b, "- %s\n", n)
	}
	_, err = io.WriteString(w, b.String())
	return err
}

// writeSamples writes what both Stratas have taken into the files before and after of a directory, in the format of
// Go's benchmarks, a line for each sample.
func (t *table) writeSamples(dir string) error {
	var before, after strings.Builder
	for _, r := range t.rows {
		for _, c := range t.contenders {
			was := r.samples[c+beforeSuffix]
			if len(was) == 0 {
				continue
			}
			word := strings.NewReplacer(" ", "_", ",", "", "/", "-").Replace
			name := "Benchmark" + strings.ToUpper(r.name[:1]) + word(r.name[1:]) + "/" + word(c)
			for _, d := range was {
				fmt.Fprintf(&before, "%s 1 %d ns/op\n", name, d.Nanoseconds())
			}
			for _, d := range r.samples[c] {
				fmt.Fprintf(&after, "%s 1 %d ns/op\n", name, d.Nanoseconds())
			}
		}
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "before"), []byte(before.String()), 0o600),
		os.WriteFile(filepath.Join(dir, "after"), []byte(after.String()), 0o600))
}

// cell formats one figure.
func (r *row) cell(contender, base string) string {
	samples := r.samples[contender]
	if len(samples) == 0 {
		return " |"
	}
	m := median(samples)
	ms := float64(m) / float64(time.Millisecond)
	figure := fmt.Sprintf(" %.0f", ms)
	if ms < 100 {
		figure = fmt.Sprintf(" %.1f", ms)
	}
	if contender == base || len(r.samples[base]) == 0 {
		return figure + " |"
	}
	return figure + fmt.Sprintf(" (%.3g) |", float64(m)/float64(median(r.samples[base])))
}

// groups splits the rows by their first contender, in order.
func (t *table) groups() []*table {
	var groups []*table
	for _, r := range t.rows {
		base := ""
		for _, c := range t.contenders {
			if len(r.samples[c]) > 0 {
				base = c
				break
			}
		}
		i := slices.IndexFunc(groups, func(g *table) bool { return g.contenders[0] == base })
		if i < 0 {
			i = len(groups)
			groups = append(groups, &table{contenders: []string{base}})
		}
		groups[i].rows = append(groups[i].rows, r)
		for _, c := range t.contenders {
			if len(r.samples[c]) > 0 && !slices.Contains(groups[i].contenders, c) {
				groups[i].contenders = append(groups[i].contenders, c)
			}
		}
	}
	return groups
}

// cpus counts the processors that are online.
func cpus() int {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return 0
	}
	return strings.Count("\n"+string(b), "\nprocessor")
}
