package config

import (
	"fmt"
	"io"
	"strings"
)

// Markdown writes all settings as the table that stands in docs/options.md.
func (t *Table) Markdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString("| option | variable | default | values | what it does | changes |\n")
	b.WriteString("|---|---|---|---|---|---|\n")
	for _, o := range t.options {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n",
			code(o.Key), code(o.Env), code(o.Default), cell(strings.Join(o.Values, ", ")), cell(o.Help), o.Change)
	}
	b.WriteString("\n")
	for _, c := range []Change{Live, Restart, Fixed, Place} {
		fmt.Fprintf(&b, "* **%s**: %s\n", c, c.Advice())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + cell(s) + "`"
}

// cell escapes what would end a table cell.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
