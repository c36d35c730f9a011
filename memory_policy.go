package modcache

import (
	"container/heap"
	"math"
	"math/bits"
	"slices"
	"time"
)

// hit leaves a mark for the policy, which looks at no more than maxCredit of them. A mark
// that another goroutine overwrites is lost, which costs less than keeping it.
func (e *memoryEntry) hit() {
	if n := e.hits.Load(); n < maxCredit {
		e.hits.Store(n + 1)
	}
}

// memoryPolicy chooses what to evict: the entry with the lowest score. The score is the
// number of requests, the recent ones weighted more, times the compile time that the
// entry saves per byte.
//
// Instead of lowering all scores as time goes by, a request counts for more the
// later it comes: the weight doubles each time that the store has taken in
// halfLife times as many artifacts as it holds and fewEntries more. So scores
// only rise, and a hit need only leave a mark: marks are added to the scores when
// something must be evicted, and only for the entries of the lowest scores. The
// marks of an entry are worth at most maxCredit requests together, so that what was
// popular long ago doesn't stay. The first request for something unknown is worth newcomer,
// because many things are asked for once.
//
// The score of an evicted entry is kept in ghosts, and the entry starts from there when it
// comes back. Otherwise artifacts that are asked for now and then would evict each
// other forever.
//
// What matters is the share of compile time that hits save. Here it is in percent, as
// the mean of seven traces, by "go run ./hitratio" in the bench module, which describes
// them. How much less others save is known within ± 1.7 (LRU: 3.2) at 95 %, trace by trace:
//
//	             zipf 0.9/1.0/1.1    churn slow/fast  one-off  budget 2 %/33 %
//	this         63.4 / 71.8 / 79.3  70.3 / 67.3      48.7     52.4 / 85.9
//	less by:
//	W-TinyLFU     1.2 /  1.1 /  1.0   1.2 /  2.3       0.7     −1.2 /  1.1
//	otter         2.7 /  2.1 /  1.6   2.1 /  1.6       1.7      2.4 /  2.0
//	SIEVE         2.7 /  2.5 /  1.6   2.4 /  2.4       2.1      5.7 /  1.9
//	S3-FIFO       3.8 /  3.2 /  2.3   2.5 /  1.0       1.3      4.5 /  3.0
//	GDSF          3.4 /  2.7 /  2.2   2.9 /  3.1       5.1      3.9 /  1.1
//	LRU          11.8 /  9.8 /  7.6   8.9 /  6.4      11.4     14.2 /  5.2
//
// W-TinyLFU is a model that weighs by compile time per byte and counts exactly.
// It is better where few entries fit, and it may refuse what this store must let in.
//
// The constants were chosen on seven other traces. Their values matter little there:
// twice the halfLife gains 0.4 in one-off and loses 1.2 under fast churn, a
// maxCredit of 1 loses 0.4 on average, a newcomer of 1 loses 2.0 in one-off,
// fewEntries of 1 loses 0.9 at 2 %, and four times the ghosts gain 0.1. Almost no
// ghosts lose 1.8.
type memoryPolicy struct {
	heap   memoryHeap
	weight float64 // of one request now
	ghosts []memoryGhost
}

const (
	halfLife   = 3
	fewEntries = 100
	maxCredit  = 3
	newcomer   = 0.25
	// maxWeight is where scores are scaled down, far from the end of float32.
	maxWeight = 1 << 40
	// ghostsPerEntry is how many departed entries are remembered for each that is
	// held, up to rounding to a power of two.
	ghostsPerEntry = 2
	minGhosts      = 64
)

// memoryGhost is the score of an evicted entry. The lower bits of its tag are its index
// in the table. A collision replaces it, or gives an entry the score of another: both
// cost little of the hit ratio.
type memoryGhost struct {
	tag   uint32
	score float32 // without the factor density
}

// insert adds e, which was just asked for.
func (p *memoryPolicy) insert(e *memoryEntry) {
	p.weight = max(p.weight, 1) * math.Exp2(1/(halfLife*float64(len(p.heap)+fewEntries)))
	if p.weight > maxWeight {
		p.rescale()
	}
	past, now := p.recall(e), float32(p.weight)
	if past == 0 {
		now *= newcomer
	}
	e.score = (past + now) * density(e.art)
	heap.Push(&p.heap, e)
}

// victim returns the entry to evict next; there must be one.
func (p *memoryPolicy) victim() *memoryEntry {
	// Bounded, because hits go on meanwhile.
	for range len(p.heap) {
		e := p.heap[0]
		hits := e.hits.Swap(0)
		if hits == 0 {
			break
		}
		e.score += float32(hits) * float32(p.weight) * density(e.art)
		heap.Fix(&p.heap, 0)
	}
	return p.heap[0]
}

// remove takes e out of the heap.
func (p *memoryPolicy) remove(e *memoryEntry) { heap.Remove(&p.heap, int(e.pos)) }

// rescale divides all scores by the weight of a request.
func (p *memoryPolicy) rescale() {
	f := float32(1 / p.weight)
	for _, e := range p.heap {
		e.score *= f // keeps the order, so it stays a heap
	}
	for i := range p.ghosts {
		p.ghosts[i].score *= f
	}
	p.weight = 1
}

// remember keeps the score of e, which is being evicted.
func (p *memoryPolicy) remember(e *memoryEntry) {
	want := max(minGhosts, 1<<bits.Len(uint(ghostsPerEntry*len(p.heap))))
	if n := len(p.ghosts); n < want || n > 8*want {
		old := p.ghosts
		p.ghosts = make([]memoryGhost, want)
		for _, g := range old {
			p.ghosts[int(g.tag)&(want-1)] = g
		}
	}
	tag := uint32(e.key.hash())
	p.ghosts[int(tag)&(len(p.ghosts)-1)] = memoryGhost{tag, e.score / density(e.art)}
}

// recall returns what remember kept for e, or 0, and forgets it.
func (p *memoryPolicy) recall(e *memoryEntry) float32 {
	if len(p.ghosts) == 0 {
		return 0
	}
	tag := uint32(e.key.hash())
	g := &p.ghosts[int(tag)&(len(p.ghosts)-1)]
	if g.tag != tag {
		return 0
	}
	score := g.score
	*g = memoryGhost{}
	return score
}

// density is the compile time that an artifact saves per byte, as a multiple of the
// typical 50 ns. It is at most 16, so that a wrong CompileTime can't keep an
// artifact in the store forever.
func density(a *Artifact) float32 {
	const typical, most = 50 * time.Nanosecond, 16
	t := a.Info().CompileTime
	if t <= 0 {
		return 1
	}
	d := float64(t) / float64(typical) / float64(max(a.Size(), 1))
	return float32(min(max(d, 1./most), most))
}

// memoryHeap is a heap, lowest score first.
type memoryHeap []*memoryEntry

func (q memoryHeap) Len() int           { return len(q) }
func (q memoryHeap) Less(i, j int) bool { return q[i].score < q[j].score }

func (q memoryHeap) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].pos, q[j].pos = int32(i), int32(j)
}

func (q *memoryHeap) Push(x any) {
	e := x.(*memoryEntry)
	e.pos = int32(len(*q))
	*q = append(*q, e)
}

func (q *memoryHeap) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	*q = slices.Delete(*q, last, last+1) // clears the slot: evicted bytes must be collectable
	return e
}
