package mounttable

import (
	"bytes"
	"os"

	"github.com/moby/sys/mountinfo"
)

// maxLine is as long as a line of the mount table can be before the options of the file system:
// source, root and target with every byte escaped as four (\040), and some numbers. A scanner takes
// lines of 64 KiB.
const maxLine = 3*4*4096 + 1024

// Read reads the mount table of the namespace of this thread, as mountinfo.GetMounts does. Of a line that is longer than
// that package takes the end of the options of the file system (VFSOptions) is missing: an overlay mount, anybody's,
// lists up to 500 lower directories.
func Read(filter mountinfo.FilterFunc) ([]*mountinfo.Info, error) {
	table, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parse(table, filter)
}

// parse cuts lines that are too long: of a table with one package mountinfo reads none at all.
func parse(table []byte, filter mountinfo.FilterFunc) ([]*mountinfo.Info, error) {
	var short bytes.Buffer
	for line := range bytes.Lines(table) {
		if len(line) > maxLine {
			line = append(line[:maxLine:maxLine], '\n')
		}
		short.Write(line)
	}
	return mountinfo.GetMountsFromReader(&short, filter)
}
