// Package proxy is the neutral model that everything else is built around: a State says what must happen to the packets of
// one IP family, and a Backend makes the kernel follow it.
package proxy
