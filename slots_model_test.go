package modcache_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

// modelObject is an object that knows whether it was released.
type slotModelObject struct {
	id       int
	parent   *slotModelObject
	holders  int // slots and children, as the model counts them
	released int
}

// modelSlot is what the model knows of one live handle.
type slotModelSlot struct {
	object   *slotModelObject
	parent   modcache.Handle // 0 if it has none
	children int
	borrows  int
	key      int // 0 if it wasn't interned
	holds    int
}

// modelTable is a table and the trivial thing it is compared with.
type slotModelTable struct {
	t      *modcache.SlotTable[*slotModelObject]
	max    int
	live   map[modcache.Handle]*slotModelSlot
	lent   map[modcache.Handle]*slotModelSlot
	issued map[modcache.Handle]bool
	byKey  map[int]modcache.Handle
	closed bool
}

type slotModel struct {
	t       testing.TB
	data    []byte
	quota   *modcache.SlotQuota
	tables  [2]*slotModelTable
	objects []*slotModelObject
	handles []modcache.Handle // every handle that any table issued
}

const (
	slotModelIndexBits = 3
	slotModelQuota     = 9
)

// runSlotModel interprets data as operations on two tables that share a quota, and
// compares each result with the model's.
func runSlotModel(t testing.TB, data []byte) {
	m := &slotModel{t: t, data: data, quota: modcache.NewSlotQuota(slotModelQuota)}
	generationBits := 2 + m.next(3)
	for i := range m.tables {
		tab := &slotModelTable{
			max:    4 + 4*i,
			live:   map[modcache.Handle]*slotModelSlot{},
			lent:   map[modcache.Handle]*slotModelSlot{},
			issued: map[modcache.Handle]bool{},
			byKey:  map[int]modcache.Handle{},
		}
		tab.t = modcache.NewSlotTableBits(&modcache.SlotOptions[*slotModelObject]{
			MaxSlots: tab.max,
			Quota:    m.quota,
			OnRelease: func(o *slotModelObject) {
				o.released++
				require.False(t, o.parent != nil && o.parent.released > 0, "parent released before its child")
			},
		}, slotModelIndexBits, generationBits)
		m.tables[i] = tab
	}
	for len(m.data) > 0 {
		m.step()
		m.check()
	}
	for _, tab := range m.tables {
		m.close(tab)
		for h, s := range tab.lent {
			for ; s.borrows > 0; s.borrows-- {
				require.NoError(t, tab.t.Release(h))
			}
			m.drop(s.object)
			delete(tab.lent, h)
		}
	}
	m.check()
	require.Zero(t, m.quota.Used())
	for _, o := range m.objects {
		require.Equal(t, 1, o.released, "object %d", o.id)
	}
}

// next takes a number below n from the data.
func (m *slotModel) next(n int) int {
	if len(m.data) == 0 {
		return 0
	}
	b := m.data[0]
	m.data = m.data[1:]
	return int(b) % n
}

// handle picks a handle: as a rule one that was issued at some time, by any table; else a made-up one.
func (m *slotModel) handle() modcache.Handle {
	if n := len(m.handles); n > 0 && m.next(8) > 0 {
		return m.handles[n-1-m.next(min(n, 12))]
	}
	return modcache.Handle(m.next(256)) * (1 + modcache.Handle(m.next(3))<<40)
}

func (m *slotModel) object() *slotModelObject {
	o := &slotModelObject{id: len(m.objects)}
	m.objects = append(m.objects, o)
	return o
}

func (m *slotModel) drop(o *slotModelObject) {
	for ; o != nil; o = o.parent {
		if o.holders--; o.holders > 0 {
			return
		}
	}
}

// put checks the outcome of an insertion that nothing but lack of room can prevent.
func (m *slotModel) put(tab *slotModelTable, h modcache.Handle, err error, used int, s *slotModelSlot) {
	switch {
	case tab.closed:
		require.ErrorIs(m.t, err, modcache.ErrClosed)
	case len(tab.live) == tab.max || used == slotModelQuota:
		require.Error(m.t, err)
		if !errors.Is(err, modcache.ErrSlotsExhausted) {
			require.ErrorIs(m.t, err, modcache.ErrSlotsFull)
		}
	case errors.Is(err, modcache.ErrSlotsExhausted):
		require.Equal(m.t, 1<<slotModelIndexBits, int(tab.t.Metrics().Retired)+len(tab.live))
	default:
		require.NoError(m.t, err)
	}
	if err != nil {
		require.Zero(m.t, h)
		return
	}
	require.NotZero(m.t, h)
	require.False(m.t, tab.issued[h], "handle %#x was issued twice", h)
	tab.issued[h] = true
	tab.live[h] = s
	s.object.holders++
	m.handles = append(m.handles, h)
}

// refused releases an object that a table didn't take, so that the final count is right.
func (m *slotModel) refused(o *slotModelObject, err error) {
	if err != nil {
		o.released++
	}
}

func (m *slotModel) step() {
	tab := m.tables[m.next(2)]
	used := m.quota.Used()
	switch op := m.next(16); op {
	case 0, 1, 2:
		o := m.object()
		h, err := tab.t.Insert(o)
		m.put(tab, h, err, used, &slotModelSlot{object: o})
		m.refused(o, err)
	case 3, 4:
		parent := m.handle()
		p := tab.live[parent]
		o := m.object()
		if p != nil {
			o.parent = p.object
		}
		h, err := tab.t.InsertChild(parent, o)
		if p == nil && !tab.closed {
			require.ErrorIs(m.t, err, modcache.ErrSlotNoHandle)
		} else {
			m.put(tab, h, err, used, &slotModelSlot{object: o, parent: parent})
		}
		if err == nil {
			p.children++
			p.object.holders++
		} else {
			o.parent = nil
		}
		m.refused(o, err)
	case 5, 6, 7:
		m.remove(tab, m.handle())
	case 8, 9:
		h := m.handle()
		s := tab.live[h]
		dst := m.tables[m.next(2)]
		h2, err := tab.t.Share(dst.t, h)
		if s == nil {
			require.ErrorIs(m.t, err, modcache.ErrSlotNoHandle)
			break
		}
		m.put(dst, h2, err, used, &slotModelSlot{object: s.object})
	case 10:
		m.intern(tab, 1+m.next(3), used)
	case 11:
		m.borrow(tab, m.handle())
	case 12:
		m.release(tab, m.handle())
	case 13, 14:
		m.replace(tab, m.handle())
	case 15:
		if m.next(8) == 0 {
			m.close(tab)
		}
	}
}

func (m *slotModel) remove(tab *slotModelTable, h modcache.Handle) {
	err := tab.t.Remove(h)
	s := tab.live[h]
	switch {
	case s == nil:
		require.ErrorIs(m.t, err, modcache.ErrSlotNoHandle)
	case s.children > 0:
		require.ErrorIs(m.t, err, modcache.ErrSlotInUse)
	case s.holds > 1:
		require.NoError(m.t, err)
		s.holds--
	case s.borrows > 0:
		require.ErrorIs(m.t, err, modcache.ErrSlotInUse)
	default:
		require.NoError(m.t, err)
		delete(tab.live, h)
		if s.key != 0 {
			delete(tab.byKey, s.key)
		}
		if s.parent != 0 {
			tab.live[s.parent].children--
		}
		m.drop(s.object)
	}
}

func (m *slotModel) intern(tab *slotModelTable, key, used int) {
	var made *slotModelObject
	h, err := tab.t.Intern(key, func() (*slotModelObject, error) {
		if m.next(8) == 0 {
			return nil, errors.ErrUnsupported
		}
		made = m.object()
		return made, nil
	})
	switch old := tab.byKey[key]; {
	case old != 0:
		require.NoError(m.t, err)
		require.Equal(m.t, old, h)
		tab.live[h].holds++
	case made == nil && !tab.closed:
		require.ErrorIs(m.t, err, errors.ErrUnsupported)
	case made == nil:
		require.ErrorIs(m.t, err, modcache.ErrClosed)
	default:
		m.put(tab, h, err, used, &slotModelSlot{object: made, key: key, holds: 1})
		if err == nil {
			tab.byKey[key] = h
		}
	}
}

func (m *slotModel) borrow(tab *slotModelTable, h modcache.Handle) {
	o, ok := tab.t.Borrow(h)
	s := tab.live[h]
	require.Equal(m.t, s != nil, ok)
	if ok {
		require.Same(m.t, s.object, o)
		s.borrows++
	}
}

func (m *slotModel) release(tab *slotModelTable, h modcache.Handle) {
	err := tab.t.Release(h)
	s := tab.live[h]
	if s == nil {
		s = tab.lent[h]
	}
	if s == nil || s.borrows == 0 {
		require.ErrorIs(m.t, err, modcache.ErrSlotNoHandle)
		return
	}
	require.NoError(m.t, err)
	if s.borrows--; s.borrows == 0 && tab.lent[h] != nil {
		delete(tab.lent, h)
		m.drop(s.object)
	}
}

func (m *slotModel) replace(tab *slotModelTable, h modcache.Handle) {
	o := m.object()
	s := tab.live[h]
	err := tab.t.Replace(h, o)
	switch {
	case s == nil:
		require.ErrorIs(m.t, err, modcache.ErrSlotNoHandle)
	case s.children > 0 || s.borrows > 0:
		require.ErrorIs(m.t, err, modcache.ErrSlotInUse)
	default:
		require.NoError(m.t, err)
		o.holders = 1
		// The parent that counts is the slot's: a shared object may have another.
		if s.parent != 0 {
			o.parent = tab.live[s.parent].object
			o.parent.holders++
		}
		m.drop(s.object)
		s.object = o
		return
	}
	m.refused(o, err)
}

func (m *slotModel) close(tab *slotModelTable) {
	require.NoError(m.t, tab.t.Close())
	tab.closed = true
	for h, s := range tab.live {
		if s.borrows > 0 {
			tab.lent[h] = s
		} else {
			m.drop(s.object)
		}
	}
	clear(tab.live)
	clear(tab.byKey)
}

// check compares everything that can be seen.
func (m *slotModel) check() {
	used := 0
	for _, tab := range m.tables {
		used += len(tab.live) + len(tab.lent)
		require.Equal(m.t, len(tab.live), tab.t.Len())
		require.Equal(m.t, len(tab.lent), tab.t.Metrics().Lent)
		for _, h := range m.handles {
			o, ok := tab.t.Get(h)
			s := tab.live[h]
			require.Equal(m.t, s != nil, ok, "handle %#x", h)
			if ok {
				require.Same(m.t, s.object, o)
				require.Zero(m.t, o.released)
			}
		}
		for h, o := range tab.t.Range {
			require.Same(m.t, tab.live[h].object, o)
		}
	}
	require.Equal(m.t, used, m.quota.Used())
	for _, o := range m.objects {
		if o.holders > 0 {
			require.Zero(m.t, o.released, "object %d", o.id)
		} else {
			require.Equal(m.t, 1, o.released, "object %d", o.id)
		}
	}
}

func TestSlotTableModel(t *testing.T) {
	runs := 400
	if testing.Short() {
		runs = 50
	}
	for seed := range runs {
		r := rand.New(rand.NewPCG(uint64(seed), 8))
		data := make([]byte, 400)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		runSlotModel(t, data)
	}
}

func FuzzSlotTable(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte("insert, share and drop; close in the end"))
	for i := range 4 {
		f.Add(slices.Repeat([]byte(fmt.Sprint(i, "3850a7c6")), 12))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		runSlotModel(t, data[:min(len(data), 600)])
	})
}
