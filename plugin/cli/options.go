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

	"strata/plugin/config"
	"strata/plugin/control"
)

func (s *session) options() *cobra.Command {
	var markdown bool
	cmd := &cobra.Command{
		Use:   "options [KEY=VALUE | KEY=]...",
		Short: "List the settings, or change some",
		Long: `List the settings, with the values that are in force if a plugin runs, or change some.

A changed setting is recorded in the store's config file; KEY= removes it from there. Some take effect at
once, the others when Strata is started again, as a plugin with dockerd, as a service by itself; the list says which, and
what the next start will change. With --root they are changed while Strata is down, such as one that keeps it from starting.

` + config.Order,
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
	cmd.Flags().BoolVar(&markdown, "markdown", false, "print all settings as the table in docs/options.md")
	return cmd
}

func (s *session) listOptions(ctx context.Context) error {
	if s.rest != "" {
		return s.listAtRest()
	}
	c, err := s.dial(ctx)
	if errdefs.IsUnavailable(err) && s.socket == "" {
		_, _ = fmt.Fprintf(s.Stderr, "strata: %s\nThese are the defaults, not what is in force:\n", control.NewError(err).Text) // as complaints
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
	settings, err := s.atRest(root, flags).Settings()
	if err != nil {
		return err
	}
	return s.printSettings(settings.List())
}

func (s *session) printSettings(list []config.Setting) error {
	return s.print(list, func(w io.Writer) {
		row(w, "OPTION", "VALUE", "FROM", "CHANGES", "AT THE NEXT START")
		for _, o := range list {
			next := "-"
			if o.Next != nil {
				next = fmt.Sprintf("%s (%s)", orDash(o.Next.Value), o.Next.Source)
			}
			row(w, o.Key, orDash(o.Value), o.Source, o.Change, next)
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
			row(w, c.Key+"="+c.Value, effect(c))
		}
	})
}

// effect says in words what became of a changed setting.
func effect(c config.Outcome) string {
	unset := ""
	if c.Unset != "" {
		unset = "unset, so this is from: " + c.Unset + "; "
	}
	switch {
	case c.Winner != "" && c.Live:
		return "in force until the next start, when " + c.Winner + ", which outranks it"
	case c.Winner != "":
		return "recorded, but " + c.Winner + ", which outranks it"
	case c.Live:
		return unset + "in force"
	case c.Restart == config.RestartDocker:
		return unset + "recorded; restart dockerd, and with it the plugin, to put it in force"
	case c.Restart == config.RestartService:
		return unset + "recorded; restart strata serve (systemctl restart strata) to put it in force"
	}
	return unset + "recorded; in force from the next start on"
}

func (s *session) change(ctx context.Context, values map[string]string) ([]config.Outcome, error) {
	if s.rest != "" {
		root, err := filepath.Abs(s.rest)
		if err != nil {
			return nil, err
		}
		return s.atRest(root, config.Source{}).SetOptions(values)
	}
	c, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	changes, err := c.SetOptions(ctx, values)
	return changes, errors.Join(err, c.Close())
}
