// Package parallel does numbered pieces of work on a few goroutines.
package parallel

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// MaxWorkers bounds the goroutines of one read or write of machine code, which is what this is for.
// More than a few don't help: memory bandwidth is the limit.
const MaxWorkers = 4

// Do calls f for 0 to n-1 on a few goroutines, the caller's among them,
// which take up to run neighbours at a time. It returns the lowest index that
// failed and its error; all lower ones succeeded. It returns when every call has.
func Do(n, run int, f func(i int) error) (failed int, err error) {
	workers := min(n, runtime.GOMAXPROCS(0), MaxWorkers)
	if workers <= 1 {
		for i := range n {
			if err := f(i); err != nil {
				return i, err
			}
		}
		return n, nil
	}
	var (
		next atomic.Int64
		mu   sync.Mutex // guards failed and err
		wg   sync.WaitGroup
	)
	failed = n
	run = max(1, min(run, (n+workers-1)/workers))
	work := func() {
		for {
			start := int(next.Add(int64(run))) - run
			for i := start; i < min(start+run, n); i++ {
				if e := f(i); e != nil {
					next.Add(int64(n)) // no new ones; lower ones are under way already
					mu.Lock()
					if i < failed {
						failed, err = i, e
					}
					mu.Unlock()
					return
				}
			}
			if start >= n {
				return
			}
		}
	}
	for range workers - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
	return failed, err
}
