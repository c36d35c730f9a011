// Program first makes the first runtimes of a process at the same time.
package main

import (
	"context"
	"sync"

	"github.com/modcache/modcache"
)

func main() {
	ctx := context.Background()
	c, err := modcache.New(modcache.NewMemory(nil), nil)
	if err != nil {
		panic(err)
	}
	begin := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			<-begin
			r, err := c.NewRuntime(ctx, nil)
			if err != nil {
				panic(err)
			}
			_ = r.Close(ctx)
		})
	}
	close(begin)
	wg.Wait()
	_ = c.Close(ctx)
}
