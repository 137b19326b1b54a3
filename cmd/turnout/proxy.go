package main

import (
	"context"
	"errors"

	"turnout/proxy/config"
)

// runProxy runs the proxy until the context ends.
func runProxy(context.Context, *config.Config) error {
	return errors.New("not wired")
}
