// Package image holds the tests of the container image: what is in it, and that its container needs no more than CAP_NET_ADMIN.
package image
