package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"strata/plugin/cli/daemon"
	"strata/plugin/config"
	"strata/plugin/control"
)

func (s *session) options() *cobra.Command {
	var markdown bool
	cmd := &cobra.Command{
		Use:   "options [KEY=VALUE]...",
		Short: "List the settings, or change some",
		Long: `List the settings, with the values that are in force if a plugin runs, or change some.

A changed setting is recorded in the store's config file. Some take effect at once, the
others when dockerd is started again; the list says which.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case markdown:
				return s.table.Markdown(s.Stdout)
			case len(args) > 0:
				return s.setOptions(cmd.Context(), args)
			}
			return s.listOptions(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&markdown, "markdown", false, "print all settings as the table in the README")
	return cmd
}

func (s *session) listOptions(ctx context.Context) error {
	if s.rest != "" {
		return s.listAtRest()
	}
	c, err := s.dial(ctx)
	if errdefs.IsUnavailable(err) && s.socket == "" {
		return s.printDefaults()
	}
	if err != nil {
		return err
	}
	list, err := c.Options(ctx)
	if err := errors.Join(err, c.Close()); err != nil {
		return err
	}
	return s.printSettings(list)
}

func (s *session) listAtRest() error {
	root, err := filepath.Abs(s.rest)
	if err != nil {
		return err
	}
	flags, err := config.FromFlags(s.pairs)
	if err != nil {
		return err
	}
	settings, err := daemon.SettingsAtRest(s.table, s.Environ, flags, root)
	if err != nil {
		return err
	}
	return s.printSettings(settings.List())
}

func (s *session) printSettings(list []config.Setting) error {
	return s.print(list, func(w io.Writer) {
		row(w, "OPTION", "VALUE", "FROM", "CHANGES")
		for _, o := range list {
			row(w, o.Key, orDash(o.Value), o.Source, o.Change)
		}
	})
}

func (s *session) printDefaults() error {
	list := s.table.Options()
	return s.print(list, func(w io.Writer) {
		row(w, "OPTION", "DEFAULT", "VALUES", "CHANGES", "VARIABLE")
		for _, o := range list {
			row(w, o.Key, orDash(o.Default), orDash(strings.Join(o.Values, ", ")), o.Change, orDash(o.Env))
		}
	})
}

func (s *session) setOptions(ctx context.Context, pairs []string) error {
	values := map[string]string{}
	for _, p := range pairs {
		key, value, ok := strings.Cut(p, "=")
		if _, twice := values[key]; !ok || key == "" || twice {
			return usageError{fmt.Errorf("%q: want KEY=VALUE, each key once", p)}
		}
		values[key] = value
	}
	changes, err := s.change(ctx, values)
	if err != nil {
		return err
	}
	return s.print(changes, func(w io.Writer) {
		for _, c := range changes {
			effect := "recorded; restart dockerd to put it in force"
			if c.Live {
				effect = "in force"
			}
			if c.Note != "" {
				effect += "; " + c.Note
			}
			row(w, c.Key+"="+c.Value, effect)
		}
	})
}

func (s *session) change(ctx context.Context, values map[string]string) ([]control.Change, error) {
	if s.rest != "" {
		root, err := filepath.Abs(s.rest)
		if err != nil {
			return nil, err
		}
		return daemon.SetAtRest(s.table, root, values)
	}
	c, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	changes, err := c.SetOptions(ctx, values)
	return changes, errors.Join(err, c.Close())
}
