package modcache

import (
	"sync/atomic"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache/internal/wazerohook"
)

// tableImage is what the tables of a template's instances begin with. wazero makes it for the first
// three instances, of which the second and the third are looked at; the first is all that many programs want.
type tableImage struct {
	empty wazero.CompiledModule // the module without elements
	most  int                   // references that the tables have room for, or else they are left to wazero

	made   atomic.Int32
	first  atomic.Pointer[wazerohook.Tables]
	agreed atomic.Pointer[wazerohook.Tables] // what is written from then on
	off    atomic.Bool
}

// A table with much more room than elements costs less as wazero makes it, which leaves out what is empty.
const (
	leastFull  = 8
	smallTable = 1024
)

// newTableImage returns nil if the tables are wazero's to fill.
func newTableImage(bare wazero.CompiledModule) *tableImage {
	empty, less, ok := wazerohook.WithoutElements(bare)
	if !ok || less == 0 {
		return nil
	}
	return &tableImage{empty: empty, most: leastFull*less + smallTable}
}

// pick returns what an instance that is unseen is to be made of, and what is to be done with it before anybody gets it.
func (i *tableImage) pick(bare wazero.CompiledModule, unseen bool) (cm wazero.CompiledModule, finish func(api.Module) bool) {
	if i == nil || i.off.Load() || !unseen {
		return bare, nil
	}
	if tables := i.agreed.Load(); tables != nil {
		return i.empty, func(mod api.Module) bool {
			if tables.Write(mod) {
				return true
			}
			i.off.Store(true)
			return false
		}
	}
	if i.made.Add(1) == 1 {
		return bare, nil
	}
	return bare, i.learn
}

// learn looks at an instance that wazero has made in full.
func (i *tableImage) learn(mod api.Module) bool {
	tables, err := wazerohook.ReadTables(mod, i.most)
	switch first := i.first.Load(); {
	case err != nil:
		i.off.Store(true)
	case first == nil:
		i.first.CompareAndSwap(nil, tables)
	case first.Equal(tables):
		i.agreed.Store(first) // so that there is one of them
	default:
		i.off.Store(true)
	}
	return true
}
