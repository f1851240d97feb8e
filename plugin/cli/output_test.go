package cli

import (
	"bytes"
	"errors"
	"testing"

	"github.com/spf13/cobra"
	"gotest.tools/v3/assert"

	"strata/backend/store"
)

// TestHarmless: what others have named cannot reach the terminal, by tables and by errors.
func TestHarmless(t *testing.T) {
	const csi = "\u009b2J" // a control of ECMA-48 in one character
	for text, want := range map[string]string{
		"":                          "",
		"häßlich \"\\ 日本 └─ \ufffd": "häßlich \"\\ 日本 └─ \ufffd",
		"/\x1b[2Jx":                 `/\x1b[2Jx`,
		csi:                         `\u009b2J`,
		"\x9b2J":                    `\x9b2J`,
		"a\tb\rc\x7f\x00":           `a\tb\rc\x7f\x00`,
		"\u202egnp.exe":             `\u202egnp.exe`,
		"line\nline":                `line\nline`,
	} {
		assert.Equal(t, harmless(text), want)
	}
	var w bytes.Buffer
	findings(&w, []store.Finding{
		{Kind: findingLost, Layer: "a\x1b[1m", Detail: "needed by container \x1b[2Jx\nno damage found"},
		{Kind: store.FindingStray, Detail: "logs/x: no layer has this ID", Repaired: "moved to damaged/logs-x"},
	})
	assert.Equal(t, w.String(), "WHAT\tLAYER\tREPAIRED\tDETAIL\n"+
		`lost-layer	a\x1b[1m	no	needed by container \x1b[2Jx\nno damage found`+"\n"+
		"stray-file\t-\tyes\tlogs/x: no layer has this ID; repaired: moved to damaged/logs-x\n")
	cmd := &cobra.Command{}
	cmd.Flags().Bool("json", false, "")
	assert.Equal(t, complaint(cmd, errors.New("read a\x1b[2J\nand more")), `strata: read a\x1b[2J`+"\nand more\n")
}
