package convert

import (
	"time"

	"hpcimg/internal/garbage"
)

// garbageCheck is so short that between two looks not much comes together.
const garbageCheck = 5 * time.Millisecond

// collectGarbage keeps the heap small until the function that it returns is called.
func collectGarbage() (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(garbageCheck)
		defer tick.Stop()
		var c garbage.Collector
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				c.Look()
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}
