package registry

import (
	"context"
	"log/slog"

	"hpcimg/image"
	"hpcimg/internal/distribution"
)

// newWire makes the wire client that the options describe.
func newWire(o image.RegistryOptions, logger *slog.Logger) *distribution.Client {
	config := &distribution.Config{
		Transport:   o.Transport,
		Proxy:       o.Proxy,
		TLS:         o.TLS,
		PlainHTTP:   o.PlainHTTP,
		UserAgent:   o.UserAgent,
		IdleTimeout: o.IdleTimeout,
		MinRate:     o.MinRate,
		MaxRate:     o.MaxRate,
		RetryBudget: o.RetryBudget,
		Attempts:    o.Attempts,
		Logger:      logger,
	}
	if o.Credentials != nil {
		config.Credentials = func(ctx context.Context, host string) (distribution.Credential, error) {
			c, err := o.Credentials(ctx, host)
			return distribution.Credential(c), err
		}
	}
	return distribution.New(config)
}
