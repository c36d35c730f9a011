package modcache

// NewSlotTableBits makes tables whose handles end soon enough for a test.
func NewSlotTableBits[T any](o *SlotOptions[T], indexBits, generationBits int) *SlotTable[T] {
	return newSlotTable(o, indexBits, generationBits)
}
