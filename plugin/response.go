package plugin

import (
	"maps"
	"net/http"
)

// Response is an answer on its way. It knows whether any of it was sent: after that an error can
// only be told by breaking the connection.
type Response struct {
	http.ResponseWriter
	begun bool
}

// Watch returns w as a Response. In a handler of a [Server] it is the one that the Server watches.
func Watch(w http.ResponseWriter) *Response {
	if r, ok := w.(*Response); ok {
		return r
	}
	return &Response{ResponseWriter: w}
}

// Begun tells whether any of the response was sent.
func (r *Response) Begun() bool { return r.begun }

// Reset takes back the headers of an answer that has not begun, so that an error can be told
// instead. It keeps what ends the connection: whoever interrupted a request's body relies on that.
func (r *Response) Reset() {
	maps.DeleteFunc(r.Header(), func(name string, _ []string) bool { return name != "Connection" })
}

// Cut ends the handler and breaks the connection, so that the client does not take a part for the
// whole. It does not return.
func (*Response) Cut() { panic(http.ErrAbortHandler) }

// WriteHeader implements http.ResponseWriter.
func (r *Response) WriteHeader(status int) {
	r.begun = true
	r.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (r *Response) Write(b []byte) (int, error) {
	r.begun = true
	return r.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *Response) Unwrap() http.ResponseWriter { return r.ResponseWriter }
