package modcache

// NewSlotTableBits makes tables whose handles end soon enough for a test.
func NewSlotTableBits[T any](o *SlotOptions[T], indexBits, generationBits int) *SlotTable[T] {
	return newSlotTable(o, indexBits, generationBits)
}

// AlmostAllBorrows makes the slot of h look as if it were borrowed as often as may be, less n.
func (t *SlotTable[T]) AlmostAllBorrows(h Handle, n uint32) { t.find(h).state.Store(maxBorrows - n) }
