package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"strata/backend/regular"
)

// FileName is the config file's name in the store's directory.
const FileName = "config.json"

// maxFile bounds the config file, bytes: far more than all settings need, far less than hurts.
const maxFile = 1 << 20

// FromFile reads a config file: one JSON object whose members are settings, with strings, numbers,
// booleans or lists of strings as values. A missing or empty file is an empty source.
func FromFile(path string) (Source, error) {
	src := Source{Name: SourceFile}
	data, err := regular.Read(path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return src, nil
	}
	if err != nil {
		return src, fmt.Errorf("config file: %w", err)
	}
	src.Assignments, err = parseObject(data, path)
	if err != nil {
		return src, fmt.Errorf("config file %s: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	return src, nil
}

// parseObject reads the members in their order, so that a repeated key is seen.
func parseObject(data []byte, origin string) ([]Assignment, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, nil
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("want one JSON object")
	}
	var list []Assignment
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		key, _ := t.(string) // a member's name is a string, or Token had failed
		var value any
		if err := dec.Decode(&value); err != nil {
			return nil, fmt.Errorf("value of %q: %w", key, err)
		}
		a := Assignment{Key: key, Origin: origin}
		if err := a.setJSON(value); err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("the object does not end: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("there is more after the object")
	}
	return list, nil
}

func (a *Assignment) setJSON(value any) error {
	switch x := value.(type) {
	case string:
		a.Value = x
	case bool:
		a.Value = strconv.FormatBool(x)
	case json.Number:
		a.Value = x.String()
	case []any:
		a.Items = make([]string, 0, len(x))
		for _, item := range x {
			s, ok := item.(string)
			if !ok {
				return fmt.Errorf("value of %q: a list may only hold strings", a.Key)
			}
			a.Items = append(a.Items, s)
		}
	default:
		return fmt.Errorf("value of %q: want a string, number, boolean or list of strings", a.Key)
	}
	return nil
}

// WriteFile replaces the config file by one with these assignments, atomically and durably.
func WriteFile(path string, list []Assignment) error {
	object := make(map[string]any, len(list))
	for _, a := range list {
		object[a.Key] = a.Value
		if a.Items != nil {
			object[a.Key] = a.Items
		}
	}
	data, err := json.MarshalIndent(object, "", "  ")
	if err != nil {
		return fmt.Errorf("write config file: %w", err)
	}
	if err := regular.ReplaceDurably(path, append(data, '\n')); err != nil {
		return fmt.Errorf("write config file: %w", err)
	}
	return nil
}

// Set returns list with a's key assigned anew. Keys are compared without the prefix "strata.".
func (t *Table) Set(list []Assignment, a Assignment) []Assignment {
	return append(t.Unset(list, a.Key), a)
}

// Unset returns list without a key, which need not be one of the table's. Keys are compared without the prefix "strata.".
func (t *Table) Unset(list []Assignment, key string) []Assignment {
	bare := func(key string) string { return strings.TrimPrefix(key, "strata.") }
	return slices.DeleteFunc(slices.Clone(list), func(a Assignment) bool { return bare(a.Key) == bare(key) })
}
