package plugin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/go-plugins-helpers/sdk"
)

// MaxJSON is the largest JSON request body, in bytes, that a front end accepts. The largest real one
// is Docker's Init with its options and ID maps: a few kilobytes.
const MaxJSON = 1 << 20

// Body returns the whole body of a JSON request. ErrInvalidArgument if it is larger than MaxJSON or
// cut short. It reads to the end, which is what makes net/http notice a client that hangs up later.
func Body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxJSON))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, fmt.Errorf("request body is larger than %d bytes: %w", tooLarge.Limit, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, fmt.Errorf("read request body: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return b, nil
}

// ReadJSON decodes the body of a request into v. Unknown fields are ignored; no content type is
// asked for. ErrInvalidArgument for anything that is not one JSON value, above all for an empty
// body: Docker repeats a call whose connection broke with the body that it has already used up.
func ReadJSON(w http.ResponseWriter, r *http.Request, v any) error {
	b, err := Body(w, r)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return fmt.Errorf("request body is empty (a retry of a call that was cut off?): %w", errdefs.ErrInvalidArgument)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode request body: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// WriteJSON answers a request with status and v. An error is the connection's: nobody can be told.
func WriteJSON(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode response: %w", err)
	}
	b = append(b, '\n')
	w.Header().Set("Content-Type", sdk.DefaultContentTypeV1_1)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("write response: %w", err)
	}
	return nil
}

// WriteArray writes a JSON array whose elements need not be in memory together. indent is that of json.Indent, "" for none. After an
// error of the elements the array has no end.
func WriteArray[T any](w io.Writer, elements iter.Seq2[T, error], indent string) error {
	before, end := "[", "[]"
	lead := ""
	if indent != "" {
		lead = "\n" + indent
	}
	for e, err := range elements {
		if err != nil {
			return err
		}
		text, err := marshal(e, indent)
		if err != nil {
			return fmt.Errorf("encode element: %w", err)
		}
		if _, err := io.WriteString(w, before+lead); err != nil {
			return fmt.Errorf("write array: %w", err)
		}
		if _, err := w.Write(text); err != nil {
			return fmt.Errorf("write array: %w", err)
		}
		before, end = ",", strings.TrimSuffix(lead, indent)+"]"
	}
	if _, err := io.WriteString(w, end); err != nil {
		return fmt.Errorf("write array: %w", err)
	}
	return nil
}

// marshal encodes an element of an array.
func marshal(v any, indent string) ([]byte, error) {
	if indent == "" {
		return json.Marshal(v)
	}
	return json.MarshalIndent(v, indent, indent)
}

// WriteError answers a request with status and {"Err": text}, the form that Docker shows to users.
func WriteError(w http.ResponseWriter, status int, err error) error {
	return WriteJSON(w, status, struct{ Err string }{Plain(err.Error())})
}
