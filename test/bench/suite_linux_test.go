package main

import (
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

func TestParseSuite(t *testing.T) {
	const out = `goos: linux
BenchmarkStrata/run-2         	       3	 194516184 ns/op	 862.51 MB/s
BenchmarkStrata/prepare  	       3	   5707778 ns/op
BenchmarkStrata/write    	       3	 183199910 ns/op
BenchmarkStrata/commit   	       3	      37.5 ns/op

PASS
`
	got, err := parseSuite(out)
	assert.NilError(t, err)
	assert.DeepEqual(t, got, map[string]time.Duration{"run": 194516184, "prepare": 5707778, "write": 183199910, "commit": 37})
	_, err = parseSuite(strings.ReplaceAll(out, "/commit", "/other"))
	assert.ErrorContains(t, err, "commit was not measured")
	_, err = parseSuite(strings.ReplaceAll(out, "       3", "       1"))
	assert.ErrorContains(t, err, "1 iterations")
	_, err = parseSuite("BenchmarkStrata\n--- SKIP: BenchmarkStrata\nPASS\n")
	assert.ErrorContains(t, err, "run was not measured")
}
