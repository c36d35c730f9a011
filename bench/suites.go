package main

import (
	"context"
	"errors"
	"regexp"

	"github.com/modcache/modcache/bench/internal/gobench"
	"github.com/modcache/modcache/bench/internal/report"
)

var disk = part{
	name:  "disk",
	title: "Disk beside wazero's directory cache",
	about: "Adding random bytes under new keys, and reading an entry into a buffer that is there already, from the page cache.\n" +
		"wazero waits for the storage device on each Add; Disk does so in Flush, or if it is told to (\"synced\"). Disk\n" +
		"verifies what it reads before it returns; wazero checks a part of it later, which isn't in its figures.",
	run: inTurn(
		suite("filecache", "Add", 8, "3x", "20x", nil, []gobench.Rule{
			{Pattern: `Add/(.+)/(.+)`, Case: report.Case{Name: "Add, $1", Unit: "ns", Reference: "wazero", Chart: true, Headline: true}, Side: "$2", Ours: ours},
		}),
		suite("filecache", "Get|Miss", 6, "3x", "100ms", nil, []gobench.Rule{
			{Pattern: `Get/(.+)/(.+)`, Case: report.Case{Name: "Get, $1", Unit: "ns", Reference: "wazero", Chart: true, Headline: true}, Side: "$2", Ours: ours},
			{Pattern: `Miss/(.+)`, Case: report.Case{Name: "Get of what isn't there", Unit: "ns", Reference: "wazero"}, Side: "$1", Ours: ours},
		}),
	),
}

var stores = part{
	name:  "stores",
	title: "Memory beside other caches and maps",
	about: "Get: 1024 entries, each goroutine in an order of its own; Local is for one goroutine. The maps don't bound\n" +
		"anything. Add to a full store: entries of up to a tenth of the budget; \"peak\" is the most that was held, in percent\n" +
		"of the budget, and \"readable\" how many of the entries could be read back right after they were added. Nothing is\n" +
		"compiled between two Adds, which would give those that evict in the background time to catch up.",
	run: suite("stores", ".", 6, "5ms", "100ms", []string{"-test.cpu=1,2"}, []gobench.Rule{
		{Pattern: `Get/(.+)`, CPUs: 1, Case: report.Case{Name: "Get, 1 goroutine", Unit: "ns", Reference: "otter", Chart: true, Headline: true}, Side: "$1", Ours: ours, Figures: allocations},
		{Pattern: `Get/(modcache.Memory|[^m].*)`, CPUs: 2, Case: report.Case{Name: "Get, 2 goroutines", Unit: "ns", Reference: "otter", Chart: true, Headline: true}, Side: "$1", Ours: ours, Figures: allocations},
		{Pattern: `AddFull/(modcache.*|otter|ristretto|theine)`, CPUs: 1, Case: report.Case{Name: "Add to a full store", Unit: "ns", Reference: "otter"}, Side: "$1", Ours: ours, Figures: map[string]report.Figure{
			"%peak": {Name: "peak, %"}, "%readable": {Name: "readable, %", Higher: true}, "allocs/op": allocations["allocs/op"],
		}},
	}),
}

var slots = part{
	name:  "slots",
	title: "SlotTable beside what hosts use instead",
	about: "1024 live objects. All sides of the first cases are called through one interface, which costs each the same 1–2 ns;\n" +
		"\"SlotTable alone\" is without it. The host call is a guest's, with a lookup in it; \"Func\" finds the table of the\n" +
		"calling module instance first.",
	run: inTurn(
		suite("slots", ".", 6, "5ms", "60ms", nil, []gobench.Rule{
			{Pattern: `Get/(\w+)/threads=(\d+)/(.+)`, Case: report.Case{Name: "Get, $1, goroutines: $2", Unit: "ns", Reference: rwMutex, Chart: true, Headline: true}, Side: "$3", Ours: ours, Figures: allocations},
			{Pattern: `GetChurn/(.+)`, Case: report.Case{Name: "Get while another goroutine inserts and removes", Unit: "ns", Reference: rwMutex, Chart: true}, Side: "$1", Ours: ours},
			{Pattern: `InsertRemove/(.+)`, Case: report.Case{Name: "Insert and Remove", Unit: "ns", Reference: rwMutex, Chart: true, Headline: true}, Side: "$1", Ours: ours, Figures: allocations},
		}),
		suite("..", "^BenchmarkSlot", 6, "5ms", "60ms", nil, []gobench.Rule{
			{Pattern: `SlotHostCall/(.+)`, Case: report.Case{Name: "Host call", Unit: "ns", Reference: "empty", Chart: true, Headline: true}, Side: "$1", Ours: ours, Yardstick: "empty", Figures: allocations},
			{Pattern: `SlotInstantiate/(.+)`, Case: report.Case{Name: "Making an instance", Unit: "ns", Reference: "wazero"}, Side: "$1", Ours: ours, Yardstick: "wazero", Figures: allocations},
			{Pattern: `SlotTable/(.+)`, Case: report.Case{Name: "SlotTable alone", Unit: "ns"}, Side: "$1", Ours: anything, Figures: allocations},
			{Pattern: `SlotClose`, Unit: "ns/slot", Case: report.Case{Name: "Close, for each slot", Unit: "ns"}, Side: "SlotTable", Ours: ours},
			{Pattern: `SlotClose`, Unit: "B/slot", Case: report.Case{Name: "Memory of a slot", Unit: "B"}, Side: "SlotTable", Ours: ours},
			{Pattern: `SlotIdle/slots=(\d+)`, Unit: "B/table", Case: report.Case{Name: "Memory of a table with few slots", Unit: "B"}, Side: "slots: $1", Ours: anything},
		}),
	),
}

const rwMutex = "map+RWMutex"

var (
	ours        = regexp.MustCompile(`^(modcache|SlotTable|SlotHost|table$|Func)`)
	anything    = regexp.MustCompile(``)
	allocations = map[string]report.Figure{"allocs/op": {Name: "allocs"}}
)

type runner func(context.Context, *bench) ([]report.Case, error)

// inTurn is a part that consists of several.
func inTurn(runs ...runner) runner {
	return func(ctx context.Context, b *bench) (cases []report.Case, err error) {
		for _, run := range runs {
			more, e := run(ctx, b)
			cases, err = append(cases, more...), errors.Join(err, e)
		}
		return cases, err
	}
}

// suite is a part that runs the benchmarks of a package, each for that time or number
// of iterations in a quick and in a full run.
func suite(dir, pattern string, rounds int, quick, full string, args []string, rules []gobench.Rule) runner {
	return func(ctx context.Context, b *bench) ([]report.Case, error) {
		time := full
		if b.quick {
			time = quick
		}
		return gobench.Suite{
			Dir: dir, Pattern: pattern, Args: append([]string{"-test.benchtime=" + time}, args...), Rounds: b.pick(2, rounds), Rules: rules,
		}.Run(ctx, b.tmp)
	}
}
