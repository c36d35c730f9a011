package books_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/books"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// entries returns n entries of 100 bytes, the i-th used i hours before noon.
func entries(n int) (all []books.Entry) {
	for i := range n {
		all = append(all, books.Entry{Name: fmt.Sprint(i), Size: 100, Used: noon.Add(-time.Duration(i) * time.Hour)})
	}
	return all
}

func names(all []books.Entry) (out []string) {
	for _, e := range all {
		out = append(out, e.Name)
	}
	return out
}

func walked(found []books.Entry) *books.Usage {
	var u books.Usage
	u.BeginWalk(0)
	u.EndWalk(found, noon)
	return &u
}

func requireTotals(t *testing.T, u *books.Usage, entries int, bytes int64) {
	t.Helper()
	gotEntries, gotBytes, _ := u.Totals()
	require.Equal(t, entries, gotEntries)
	require.Equal(t, bytes, gotBytes)
}

func TestSortForEviction(t *testing.T) {
	all := []books.Entry{
		{Name: "now", Used: noon},
		{Name: "another clock's", Used: noon.Add(books.ClockSkew)},
		{Name: "old"},
		{Name: "wrong", Used: noon.Add(books.ClockSkew + 1)},
		{Name: "very wrong", Used: noon.Add(24 * time.Hour)},
		{Name: "as old"},
	}
	books.SortForEviction(all, noon)
	require.Equal(t, []string{"wrong", "very wrong", "old", "as old", "now", "another clock's"}, names(all))
}

func TestUsageTakesRoom(t *testing.T) {
	var unknown books.Usage
	require.Equal(t, books.Room{Unknown: true}, unknown.Take(books.Ask{Size: 1, Limit: 100}), "nobody has looked")
	require.True(t, unknown.Take(books.Ask{Size: 1, Limit: -1}).Fits, "there is no limit")

	u := walked(entries(5))
	require.True(t, u.Take(books.Ask{Size: 500, Limit: -1, Walked: true}).Fits)
	u.Release(500)
	require.True(t, u.Take(books.Ask{Size: 50, Limit: 550, Walked: true}).Fits)
	room := u.Take(books.Ask{Size: 120, Limit: 550, Walked: true})
	require.False(t, room.Fits)
	require.Equal(t, []string{"4", "3"}, names(room.Evict))

	// Enough is on its way for somebody else with as much.
	other := u.Take(books.Ask{Size: 120, Limit: 550, Walked: true})
	require.NotNil(t, other.Wait)
	u.Remove("4")
	u.Settle(room.Evict)
	<-other.Wait
	require.Equal(t, []string{"2"}, names(u.Take(books.Ask{Size: 120, Limit: 550, Walked: true}).Evict), "3 stayed")
	requireTotals(t, u, 4, 400)
}

func TestUsageFreesSpace(t *testing.T) {
	u := walked(entries(5))
	room := u.Take(books.Ask{Size: 10, Limit: -1, Missing: 150, Walked: true})
	require.Equal(t, []string{"4", "3"}, names(room.Evict))
	require.Equal(t, books.Room{}, u.Take(books.Ask{Size: 10, Limit: -1, Missing: 501, Walked: true}), "all of it isn't enough")
	require.Empty(t, u.TakeOldest(501))
	require.Equal(t, []string{"2"}, names(u.TakeOldest(1)))
}

// TestUsageEvictsInParts lowers the limit of very many entries.
func TestUsageEvictsInParts(t *testing.T) {
	const n, once = 5000, 1000
	// rounds asks until there is room, and returns how often entries had to be evicted for that.
	rounds := func(u *books.Usage, a books.Ask) (n int) {
		for {
			room := u.Take(a)
			if room.Fits {
				return n
			}
			n++
			require.NotEmpty(t, room.Evict)
			require.LessOrEqual(t, len(room.Evict), once)
			oldest, _, _ := u.Totals()
			for i, e := range room.Evict {
				require.Equal(t, fmt.Sprint(oldest-1-i), e.Name)
				u.Remove(e.Name)
			}
			u.Settle(room.Evict)
			freed := books.SizeOf(room.Evict)
			a.Freed += freed
			a.Missing -= freed
		}
	}
	u := walked(entries(n))
	require.Equal(t, 2, rounds(u, books.Ask{Size: 60_000, Limit: 100_000, Walked: true}), "as much as it adds, twice")
	u.Release(60_000)
	requireTotals(t, u, n-2*once, 100*(n-2*once))
	require.Equal(t, 2, rounds(u, books.Ask{Limit: 100_000, Walked: true}), "who adds nothing waits for all")
	requireTotals(t, u, once, 100*once)

	u = walked(entries(n))
	require.Equal(t, 4, rounds(u, books.Ask{Size: 400_000, Limit: 500_000, Walked: true}), "a limit that holds is kept")
	requireTotals(t, u, 1000, 100_000)

	u = walked(entries(n))
	require.Equal(t, 1, rounds(u, books.Ask{Size: 100, Limit: -1, Missing: 300_000}), "space is short without it")
	requireTotals(t, u, n-once, 100*(n-once))
	require.Equal(t, 3, rounds(u, books.Ask{Size: 300_000, Limit: -1, Missing: 300_000}), "only what it needs itself is missing")

	require.Len(t, walked(entries(n)).Take(books.Ask{Size: 10, Limit: 99, Walked: true}).Evict, once, "none of them could ever fit")
}

func TestUsageLooksAgain(t *testing.T) {
	const limit = 1600
	u := walked(nil)
	require.True(t, u.Take(books.Ask{Size: 100, Limit: limit}).Fits)
	u.Land("a", 100)(90)
	require.True(t, u.Take(books.Ask{Size: 10, Limit: limit}).Fits)
	require.True(t, u.Take(books.Ask{Size: 1, Limit: limit}).Unknown, "others may have added as much")
	require.True(t, u.Take(books.Ask{Size: 1, Limit: limit, Walked: true}).Fits)
}

// TestUsageBelievesAStamp has others tell what they add since it was made.
func TestUsageBelievesAStamp(t *testing.T) {
	const limit = 1600 * books.Block
	stamp := books.Stamp{AsOf: noon, Entries: 10, Bytes: 10 * books.Block, Told: 7}
	after := func(others, own int64) *books.Usage {
		var u books.Usage
		u.Remember(stamp)
		u.Tell(own)(stamp.Told + others + own)
		return &u
	}
	ask := func(blocks int64) books.Ask { return books.Ask{Size: blocks * books.Block, Limit: limit, Told: true} }
	require.True(t, after(0, 1).Take(ask(1)).Fits)
	require.True(t, after(60, 40).Take(ask(40)).Fits)
	require.True(t, after(61, 40).Take(ask(40)).Unknown, "a sixteenth is told of")
	require.True(t, after(1<<62, 1).Take(ask(1)).Unknown)
	require.True(t, after(-7, 1).Take(ask(1)).Unknown, "somebody has begun anew")
	untold, missing, unbounded := ask(1), ask(1), ask(1)
	untold.Told, missing.Missing, unbounded.Limit = false, 1, -1
	require.True(t, after(0, 1).Take(untold).Unknown)
	require.True(t, after(0, 1).Take(missing).Unknown)
	require.True(t, after(1<<62, 1).Take(unbounded).Fits)

	u := after(5, 1)
	require.True(t, u.Take(ask(1)).Fits)
	now := stamp
	now.Bytes, now.Told = now.Bytes+books.Block, now.Told+1
	require.Equal(t, now, u.Stamp(), "what others told isn't part of it, and what is reserved is")
	u.BeginWalk(stamp.Told + 6)
	telling := u.Tell(2) // before it looks or after
	u.FailWalk()
	require.True(t, u.Take(ask(1)).Unknown)
	require.Zero(t, u.Stamp())
	u.BeginWalk(stamp.Told + 6)
	telling(stamp.Told + 8)
	u.EndWalk(entries(3), noon)
	u.Release(books.Block)
	require.Equal(t, books.Stamp{AsOf: noon, Entries: 3, Bytes: 300, Told: stamp.Told + 6}, u.Stamp())

	full := stamp
	full.Bytes = limit - 2*books.Block
	u = new(books.Usage)
	u.Remember(full)
	require.True(t, u.Take(ask(1)).Fits)
	u.Tell(1)(full.Told + 1 + 1)
	require.True(t, u.Take(ask(1)).Unknown, "others have taken the last block")
}

func TestUsageDuringAWalk(t *testing.T) {
	u := walked(entries(3))
	u.BeginWalk(0)
	u.Remove("0")
	u.Take(books.Ask{Size: 10, Limit: -1})
	u.Land("new", 10)(7)
	u.EndWalk(entries(2), noon) // it has seen 0, and not the new one
	requireTotals(t, u, 2, 107)

	u.BeginWalk(0)
	u.FailWalk()
	require.True(t, u.Take(books.Ask{Size: 1, Limit: 1000, Walked: true}).Unknown)
	requireTotals(t, u, 2, 107)
}

func TestUsageDropsTheUnused(t *testing.T) {
	u := walked(entries(5))
	out := u.TakeUnusedSince(noon.Add(-3 * time.Hour))
	require.Equal(t, []string{"4"}, names(out))
	require.Empty(t, u.TakeUnusedSince(time.Time{}))
	require.Equal(t, []string{"3"}, names(u.TakeOldest(1)))
}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		limit, missing int64
		unused         time.Time
		want           []string
	}{
		{limit: -1},
		{limit: 500},
		{limit: 499, want: []string{"4"}},
		{limit: 300, missing: 250, want: []string{"4", "3", "2"}},
		{limit: -1, missing: 501},
		{limit: -1, unused: noon.Add(-time.Hour), want: []string{"4", "3", "2"}},
		{limit: 300, missing: 250, unused: noon.Add(-3 * time.Hour), want: []string{"4", "3", "2"}},
	} {
		require.Equal(t, c.want, names(books.Plan(entries(5), noon, c.unused, c.limit, c.missing)), "%+v", c)
	}
	// What can never fit goes first, and alone if that is enough.
	all := entries(5)
	all[1].Size = 301
	require.Equal(t, []string{"1", "4"}, names(books.Plan(all, noon, time.Time{}, 300, 0)))
	all = entries(5) // a plan sorts what it is given
	all[1].Size = 401
	require.Equal(t, []string{"1"}, names(books.Plan(all, noon, time.Time{}, 400, 0)))
}

// TestUsageAgainstAModel does random things, and compares with sizes in a map.
func TestUsageAgainstAModel(t *testing.T) {
	const limit = 2000
	rng := rand.New(rand.NewPCG(1, 2))
	u := walked(nil)
	there := map[string]int64{}
	used := noon
	for step := range 5000 {
		used = used.Add(time.Second)
		switch rng.IntN(4) {
		case 0:
			var found []books.Entry
			for name, size := range there {
				found = append(found, books.Entry{Name: name, Size: size, Used: used})
			}
			u.BeginWalk(0)
			u.EndWalk(found, used)
		case 1:
			name := fmt.Sprint(rng.IntN(30))
			delete(there, name)
			u.Remove(name)
		default:
			size := 1 + rng.Int64N(300)
			for room := u.Take(books.Ask{Size: size, Limit: limit, Walked: true}); !room.Fits; room = u.Take(books.Ask{Size: size, Limit: limit, Walked: true}) {
				if len(room.Evict) == 0 { // all that the last walk found is gone
					var found []books.Entry
					for name, size := range there {
						found = append(found, books.Entry{Name: name, Size: size, Used: used})
					}
					u.BeginWalk(0)
					u.EndWalk(found, used)
					continue
				}
				for _, e := range room.Evict {
					delete(there, e.Name)
					u.Remove(e.Name)
				}
				u.Settle(room.Evict)
			}
			name := fmt.Sprint(rng.IntN(30))
			there[name] = size
			u.Land(name, size)(size)
		}
		var sum int64
		for _, size := range there {
			sum += size
		}
		requireTotals(t, u, len(there), sum)
		require.LessOrEqual(t, sum, int64(limit), step)
	}
}

func TestStamp(t *testing.T) {
	s := books.Stamp{Since: noon.Local(), AsOf: noon.Add(time.Hour).Local(), Entries: 3, Bytes: 1 << 40, Told: 5, Futile: books.Futile{Free: 77, Until: noon.Local()}}
	require.Equal(t, s, books.ParseStamp(s.String()))
	require.Equal(t, books.Stamp{}, books.ParseStamp(books.Stamp{}.String()))
	for i := range len(s.String()) {
		damaged := []byte(s.String())
		damaged[i] ^= 1
		require.Zero(t, books.ParseStamp(string(damaged)), string(damaged))
	}
	year10000 := time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, wrong := range []books.Stamp{
		{Since: year10000}, {AsOf: year10000}, {AsOf: time.Unix(-1, 0)}, {Futile: books.Futile{Until: year10000}},
		{Entries: math.MaxInt}, {Bytes: math.MaxInt64}, {Bytes: -1}, {Told: -1}, {Entries: -1}, {Futile: books.Futile{Free: -1}},
	} {
		require.Zero(t, books.ParseStamp(wrong.String()), wrong)
	}
	for _, text := range []string{"", "x", s.String()[1:], "since 1, as of 2: -3 entries, 4 bytes; evict from 0 free bytes, or from 0\n"} {
		require.Zero(t, books.ParseStamp(text), text)
	}
}

func TestUsageRemembers(t *testing.T) {
	var u books.Usage
	u.Remember(books.Stamp{Entries: 5})
	requireTotals(t, &u, 0, 0) // nobody has looked
	u.Land("a", 0)(10)
	u.Remember(books.Stamp{Entries: 5, Bytes: 50, AsOf: noon})
	requireTotals(t, &u, 6, 60)
	u.BeginWalk(0)
	u.EndWalk(entries(2), noon)
	requireTotals(t, &u, 2, 200)
	u.Remember(books.Stamp{Entries: 5, Bytes: 50, AsOf: noon})
	requireTotals(t, &u, 2, 200)
}

func TestUnused(t *testing.T) {
	const age = 24 * time.Hour
	ago := func(d time.Duration) time.Time { return noon.Add(-d) }
	for name, c := range map[string]struct {
		oldest    time.Time
		maxAge    time.Duration
		since     time.Time
		untrusted bool

		before, from time.Time
	}{
		"for ever":           {oldest: ago(age * 9), maxAge: -1},
		"some are old":       {oldest: ago(age * 2), maxAge: age, before: ago(age)},
		"others were away":   {oldest: ago(age * 2), maxAge: age, untrusted: true, from: noon},
		"nothing is old":     {oldest: ago(age / 2), maxAge: age, untrusted: true, before: ago(age)},
		"before there were":  {oldest: time.Unix(0, 0), maxAge: age, from: noon},
		"seen since":         {oldest: time.Unix(0, 0), maxAge: age, since: ago(age / 2), from: ago(age / 2)},
		"seen for long":      {oldest: time.Unix(0, 0), maxAge: age, since: ago(age * 2), before: ago(age), from: ago(age * 2)},
		"seen in the future": {oldest: time.Unix(0, 0), maxAge: age, since: ago(-age), from: noon},
	} {
		before, from := books.Unused(c.oldest, noon, c.maxAge, c.since, !c.untrusted)
		require.Equal(t, c.before, before, name)
		require.Equal(t, c.from, from, name)
	}
}

// TestUsageOfWhatAppears has a walk find entries that are about to be committed, or that come to nothing.
func TestUsageOfWhatAppears(t *testing.T) {
	var u books.Usage
	walk := func(names ...string) {
		u.BeginWalk(0)
		var found []books.Entry
		for _, name := range names {
			found = append(found, books.Entry{Name: name, Size: 90})
		}
		u.EndWalk(found, noon)
	}
	fits := func(limit int64) bool {
		r := u.Take(books.Ask{Limit: limit, Walked: true})
		u.Settle(r.Evict)
		return r.Fits
	}
	walk()
	require.True(t, u.Take(books.Ask{Size: 100, Limit: 100, Walked: true}).Fits)
	landed := u.Land("a", 100)
	walk()
	require.False(t, fits(99), "it isn't there yet")
	walk("a")
	require.True(t, fits(90), "it counts once")
	require.Zero(t, landed(80))
	_, bytes, _ := u.Totals()
	require.EqualValues(t, 80, bytes)
	require.True(t, fits(80))

	// One that replaces another doesn't appear.
	require.True(t, u.Take(books.Ask{Size: 10, Limit: 90, Walked: true}).Fits)
	landed = u.Land("a", 10)
	require.EqualValues(t, 10, landed(-1))
	require.False(t, fits(89))
	landed = u.Land("a", 10)
	walk("a")
	left := landed(-1)
	require.Zero(t, left)
	u.Release(left)
	require.True(t, fits(90))
}
