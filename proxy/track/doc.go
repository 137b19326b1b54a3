// Package track turns Service and EndpointSlice objects into compact immutable records, the slices of a Service merged, and
// knows what changed since the last snapshot.
package track
