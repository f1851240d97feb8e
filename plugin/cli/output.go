package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/docker/go-units"
)

// print writes v as JSON if that was asked for, and else calls human with a tab writer.
func (s *session) print(v any, human func(w io.Writer)) error {
	if s.json {
		e := json.NewEncoder(s.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	w := tabwriter.NewWriter(s.Stdout, 0, 8, 3, ' ', 0)
	human(w)
	return w.Flush()
}

// row writes one line of a table. What its cells hold is made harmless to a terminal.
func row(w io.Writer, cells ...any) {
	text := make([]string, 0, len(cells))
	for _, c := range cells {
		text = append(text, harmless(fmt.Sprint(c)))
	}
	_, _ = fmt.Fprintln(w, strings.Join(text, "\t")) // Flush reports what went wrong
}

// harmless returns a text as a terminal shows it and does not obey it: characters that cannot be printed, and bytes that are none, are
// written as in Go. Names come from others, and anything can be in them.
func harmless(text string) string {
	odd := func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }
	if !strings.ContainsFunc(text, odd) {
		return text
	}
	var b strings.Builder
	for _, c := range strings.Split(text, "") { // an invalid byte is a piece of its own
		if strings.ContainsFunc(c, odd) {
			c = strings.Trim(strconv.Quote(c), `"`)
		}
		b.WriteString(c)
	}
	return b.String()
}

// harmlessLines is harmless for a text of several lines.
func harmlessLines(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = harmless(lines[i])
	}
	return strings.Join(lines, "\n")
}

// short cuts a name of 64 hex digits to 12, as docker does, and keeps an "-init".
func short(name string) string {
	const long, cut = 64, 12
	if i := strings.LastIndexByte(name, ':'); i > 0 { // containerd's: NAMESPACE/NUMBER/sha256:CHAIN
		return name[:i+1] + short(name[i+1:])
	}
	id, suffix, _ := strings.Cut(name, "-")
	if len(id) < long {
		return name
	}
	if suffix != "" {
		suffix = "-" + suffix
	}
	return id[:cut] + suffix
}

func size(bytes int64) string { return units.HumanSizeWithPrecision(float64(bytes), 3) }

func age(t time.Time) string { return units.HumanDuration(time.Since(t)) + " ago" }

// orDash shows that there is nothing.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// isTerminal says whether w is a terminal: a character device, and not the one that swallows all.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0 && !isNull(st)
}

// isNull recognises the device that swallows all.
func isNull(st os.FileInfo) bool {
	null, err := os.Stat(os.DevNull)
	return err == nil && os.SameFile(st, null)
}

// progressEvery is how often a line of progress is drawn at most.
const progressEvery = 100 * time.Millisecond

// progress draws one line that overwrites itself, on a terminal only. Not safe for concurrent use.
type progress struct {
	w    io.Writer // nil draws nothing
	last time.Time
}

func (s *session) progress() *progress {
	if !isTerminal(s.Stderr) {
		return &progress{}
	}
	return &progress{w: s.Stderr}
}

const eraseLine = "\r\x1b[K" // back to the first column, erase to the end: ECMA-48 EL

func (p *progress) show(format string, args ...any) {
	if p.w == nil || time.Since(p.last) < progressEvery {
		return
	}
	p.last = time.Now()
	_, _ = fmt.Fprintf(p.w, eraseLine+format, args...) // progress that cannot be seen harms nobody
}

// done erases the line.
func (p *progress) done() {
	if p.w != nil && !p.last.IsZero() {
		_, _ = io.WriteString(p.w, eraseLine) // as above
	}
}
