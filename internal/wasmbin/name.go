package wasmbin

// ModuleName returns the name that a module's name section gives to it, or nil if there is none that can be
// read. It aliases the module.
func ModuleName(wasm []byte) []byte {
	sc, err := newScanner(wasm)
	if err != nil {
		return nil
	}
	for sc.next() {
		s := sc.section
		if s.ID != custom || string(s.Name) != "name" {
			continue
		}
		r := newReader(wasm, s.Data, s.End)
		const module = 0 // comes first, if it is there
		if id, size := r.byte(), r.u32(); r.err == nil && id == module && int(size) <= r.end-r.pos {
			n := r.u32()
			if name := r.utf8(n); r.err == nil {
				return name
			}
		}
		return nil
	}
	return nil
}
