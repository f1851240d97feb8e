package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// assign parses s into v. Lists are separated by commas; an empty string is an empty list.
func assign(v reflect.Value, s string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(s))
	}
	if v.Type() == reflect.TypeFor[time.Duration]() {
		d, err := time.ParseDuration(s)
		v.SetInt(int64(d))
		return err
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Bool:
		b, err := strconv.ParseBool(s)
		if err != nil {
			return fmt.Errorf("%q is not true or false", s)
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(s, 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is not a whole number", s)
		}
		v.SetInt(n)
	case reflect.Uint, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(s, 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is not a whole number", s)
		}
		v.SetUint(n)
	case reflect.Slice:
		return assignList(v, splitList(s))
	default:
		return fmt.Errorf("a field of type %s cannot be an option", v.Type())
	}
	return nil
}

// assignList sets a list of strings.
func assignList(v reflect.Value, items []string) error {
	if v.Type() != reflect.TypeFor[[]string]() {
		return fmt.Errorf("it is not a list")
	}
	v.Set(reflect.ValueOf(items))
	return nil
}

// splitList splits at commas and drops blanks and empty items.
func splitList(s string) []string {
	var items []string
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

// format is the reverse of assign.
func format(v reflect.Value) string {
	if v.CanInterface() {
		switch x := v.Interface().(type) {
		case encoding.TextMarshaler:
			text, err := x.MarshalText()
			if err != nil {
				return err.Error()
			}
			return string(text)
		case []string:
			return strings.Join(x, ",")
		}
	}
	return fmt.Sprint(v.Interface())
}
