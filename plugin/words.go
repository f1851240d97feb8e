package plugin

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// MaxText is how much of an error anybody is told, bytes: it may quote a request, and containerd gives up a connection on which
// an error of megabytes comes.
const MaxText = 8 << 10

// Brief takes the middle out of a text of more than so many bytes: its beginning says what it is about, and its end why.
func Brief(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most/2], "") + " ... " + strings.ToValidUTF8(text[len(text)-most/2:], "")
}

// Plain returns the text of an error as people want it: without the classes of package errdefs at the ends of its
// lines and before its semicolons, where they say nothing that the text does not, and not more of it than MaxText. A class in words of its own stays: not found, already exists,
// permission denied. Programs get the class beside the text, where the protocol has a place for it.
func Plain(text string) string {
	text = Brief(text, MaxText)
	classes := []error{
		errdefs.ErrUnavailable, errdefs.ErrFailedPrecondition, errdefs.ErrInvalidArgument, errdefs.ErrDataLoss, errdefs.ErrConflict,
		errdefs.ErrInternal, errdefs.ErrAborted, errdefs.ErrUnknown, errdefs.ErrResourceExhausted, errdefs.ErrNotImplemented,
	}
	for _, class := range classes {
		text = strings.ReplaceAll(text, ": "+class.Error()+"; ", "; ")
	}
	lines := strings.Split(text, "\n")
	for i := range lines {
		for n := 0; n < len(classes); n++ {
			if rest, ok := strings.CutSuffix(lines[i], ": "+classes[n].Error()); ok {
				lines[i], n = rest, -1 // there may be another before it
			}
		}
	}
	return strings.Join(lines, "\n")
}

// Damaged says in a line that so many layers are damaged; nil for none.
func Damaged(layers int) []string {
	switch layers {
	case 0:
		return nil
	case 1:
		return []string{"1 layer is damaged, or stands on one that is: strata check names it"}
	}
	return []string{fmt.Sprintf("%d layers are damaged, or stand on one that is: strata check names them", layers)}
}

// Renamer returns a function that replaces, in a text for people, paths at or below a directory here by those that they
// have for the reader. A directory counts only where a path begins. names has the reader's directory for each of ours.
func Renamer(names map[string]string) func(text string) string {
	return func(text string) string {
		var b strings.Builder
		for i := 0; i < len(text); {
			here, there := longest(names, text[i:])
			if here == "" || i > 0 && inPath(text[i-1]) {
				b.WriteByte(text[i])
				i++
				continue
			}
			i += len(here)
			if i < len(text) && text[i] == '/' {
				there = strings.TrimSuffix(there, "/") // the reader's directory may be the root
			}
			b.WriteString(there)
		}
		return b.String()
	}
}

// longest returns the longest of our directories that a path at the beginning of text is or lies in, and the reader's name for it.
func longest(names map[string]string, text string) (here, there string) {
	for from, to := range names {
		if len(from) <= len(here) || !strings.HasPrefix(text, from) {
			continue
		}
		if rest := text[len(from):]; rest == "" || rest[0] == '/' || !inPath(rest[0]) {
			here, there = from, to
		}
	}
	return here, there
}

// inPath says whether a character can belong to a path.
func inPath(c byte) bool {
	return c == '/' || c == '.' || c == '-' || c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
