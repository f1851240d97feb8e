//go:build !race

package main

// buildFlags build the program as this test is built.
const buildFlags = "-race=false"
