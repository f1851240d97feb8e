package daemon

import (
	"bufio"
	"bytes"
	"os"

	"github.com/moby/sys/mountinfo"
)

// ownMounts reads the mount table of this process.
func ownMounts() ([]*mountinfo.Info, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMounts(table)
}

// parseMounts leaves out lines that package mountinfo cannot take: those of layers with hundreds of
// parents, which an earlier process mounted.
func parseMounts(table []byte) ([]*mountinfo.Info, error) {
	var short bytes.Buffer
	for line := range bytes.Lines(table) {
		if len(line) < bufio.MaxScanTokenSize {
			short.Write(line)
		}
	}
	return mountinfo.GetMountsFromReader(&short, nil)
}
