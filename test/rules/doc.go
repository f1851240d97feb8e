// Package rules holds the source tree to the rules that CONTRIBUTING.md lists: import directions,
// package comments, sizes, names, skips, scripts. It has only tests.
//
// A rule is a function from one file to what is wrong with it. Beside it stand one example that
// breaks it and one that keeps it, so that a rule that cannot fail is found at once.
package rules
