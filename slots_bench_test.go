package modcache_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/modcache/modcache"
)

type slotBenchObject struct{ n uint64 }

const slotBenchCount = 1024

// BenchmarkSlotTable is the table alone. The module bench compares it with others.
func BenchmarkSlotTable(b *testing.B) {
	t := modcache.NewSlotTable[*slotBenchObject](nil)
	hs := make([]modcache.Handle, slotBenchCount)
	for i := range hs {
		hs[i], _ = t.Insert(&slotBenchObject{uint64(i)})
	}
	random := make([]modcache.Handle, slotBenchCount)
	for i, j := range rand.Perm(slotBenchCount) {
		random[i] = hs[j]
	}
	get := func(hs []modcache.Handle) func(b *testing.B) {
		return func(b *testing.B) {
			var sum uint64
			for i := 0; b.Loop(); i++ {
				v, ok := t.Get(hs[i%slotBenchCount])
				if ok {
					sum += v.n
				}
			}
			slotBenchSink = sum
		}
	}
	b.Run("Get/sequential", get(hs))
	b.Run("Get/random", get(random))
	b.Run("BorrowRelease", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			h := hs[i%slotBenchCount]
			if _, ok := t.Borrow(h); ok {
				_ = t.Release(h)
			}
		}
	})
	b.Run("InsertRemove", func(b *testing.B) {
		v := &slotBenchObject{}
		b.ReportAllocs()
		for b.Loop() {
			h, _ := t.Insert(v)
			_ = t.Remove(h)
		}
	})
	b.Run("SlotAs", func(b *testing.B) {
		t := modcache.NewSlotTable[any](nil)
		for i := range hs {
			hs[i], _ = t.Insert(&slotBenchObject{uint64(i)})
		}
		var sum uint64
		for i := 0; b.Loop(); i++ {
			v, ok := modcache.SlotAs[*slotBenchObject](t, hs[i%slotBenchCount])
			if ok {
				sum += v.n
			}
		}
		slotBenchSink = sum
	})
}

// BenchmarkSlotClose reports the cost of Close, and the memory, per live slot.
func BenchmarkSlotClose(b *testing.B) {
	const n = 100_000
	v := &slotBenchObject{}
	var bytes uint64
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		before := slotHeapBytes()
		t := modcache.NewSlotTable[*slotBenchObject](nil)
		for range n {
			if _, err := t.Insert(v); err != nil {
				b.Fatal(err)
			}
		}
		bytes += slotHeapBytes() - before
		b.StartTimer()
		if err := t.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/slot")
	b.ReportMetric(float64(bytes)/float64(b.N)/n, "B/slot")
}

// BenchmarkSlotIdle reports the memory of a table without slots, and with one.
func BenchmarkSlotIdle(b *testing.B) {
	for _, slots := range []int{0, 1} {
		b.Run(fmt.Sprintf("slots=%d", slots), func(b *testing.B) {
			tables := make([]*modcache.SlotTable[*slotBenchObject], 1000)
			v := &slotBenchObject{}
			var bytes uint64
			for range b.N {
				clear(tables)
				before := slotHeapBytes()
				for i := range tables {
					tables[i] = modcache.NewSlotTable[*slotBenchObject](nil)
					for range slots {
						_, _ = tables[i].Insert(v)
					}
				}
				bytes += slotHeapBytes() - before
			}
			b.ReportMetric(float64(bytes)/float64(b.N)/float64(len(tables)), "B/table")
			runtime.KeepAlive(tables)
		})
	}
}

var slotBenchSink uint64

func slotHeapBytes() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
