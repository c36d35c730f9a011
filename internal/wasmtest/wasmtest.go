// Package wasmtest writes small WebAssembly modules for tests.
package wasmtest

import "encoding/binary"

// Value types.
const (
	I32 = 0x7f
	I64 = 0x7e
)

// Module is a module in the making. Its zero value is the empty module.
type Module struct {
	types, imports, funcs, exports, bodies [][]byte
	memory, start, data                    []byte
	customs                                [][]byte
	raw                                    map[byte][]byte
	imported                               int
}

// Type adds a function type and returns its index.
func (m *Module) Type(params, results []byte) int {
	m.types = append(m.types, concat([]byte{0x60}, vecBytes(params), vecBytes(results)))
	return len(m.types) - 1
}

// Import adds an imported function and returns its index. All imports come first.
func (m *Module) Import(module, name string, typ int) int {
	m.imports = append(m.imports, concat(str(module), str(name), []byte{0}, U32(uint32(typ))))
	m.imported++
	return m.imported - 1
}

// Func adds a function without locals, exported if it has a name, and returns its
// index. The body is given without its final end.
func (m *Module) Func(typ int, export string, body ...byte) int {
	return m.Body(typ, export, concat([]byte{0}, body, []byte{0x0b}))
}

// Body adds a function whose body, with locals and end, is given as it is.
func (m *Module) Body(typ int, export string, body []byte) int {
	index := m.imported + len(m.funcs)
	m.funcs = append(m.funcs, U32(uint32(typ)))
	m.bodies = append(m.bodies, vecBytes(body))
	if export != "" {
		m.exports = append(m.exports, concat(str(export), []byte{0}, U32(uint32(index))))
	}
	return index
}

// Memory gives the module a memory of so many pages, exported as "memory".
func (m *Module) Memory(pages uint32) {
	m.memory = concat([]byte{1, 0}, U32(pages))
	m.exports = append(m.exports, concat(str("memory"), []byte{2, 0}))
}

// Start names the function that runs when the module is instantiated.
func (m *Module) Start(index int) { m.start = U32(uint32(index)) }

// Data fills the memory from address 0.
func (m *Module) Data(b []byte) {
	m.data = concat([]byte{1, 0, 0x41, 0, 0x0b}, vecBytes(b))
}

// Export exports something that isn't a function of Func: kind 0 is a function, 1 a table,
// 2 the memory, 3 a global.
func (m *Module) Export(name string, kind byte, index int) {
	m.exports = append(m.exports, concat(str(name), []byte{kind}, U32(uint32(index))))
}

// Section gives the content of a section that the other methods don't write: globals, tables,
// limits, what is imported beside functions.
func (m *Module) Section(id byte, content ...[]byte) {
	if m.raw == nil {
		m.raw = map[byte][]byte{}
	}
	m.raw[id] = concat(content...)
}

// Custom adds a custom section, at the end.
func (m *Module) Custom(name string, content []byte) {
	m.customs = append(m.customs, concat(str(name), content))
}

// Bytes returns the binary.
func (m *Module) Bytes() []byte {
	out := []byte("\x00asm\x01\x00\x00\x00")
	write := func(id byte, content []byte) {
		out = append(out, id)
		out = append(out, vecBytes(content)...)
	}
	done := byte(0)
	section := func(id byte, content []byte) {
		const order = "\x01\x02\x03\x04\x05\x0d\x06\x07\x08\x09\x0c\x0a\x0b"
		for ; done < byte(len(order)) && order[done] != id; done++ {
			if raw, ok := m.raw[order[done]]; ok {
				write(order[done], raw)
			}
		}
		if raw, ok := m.raw[id]; ok && id != 0 {
			content = raw
		}
		if id != 0 {
			done++
		}
		if content != nil {
			write(id, content)
		}
	}
	vec := func(id byte, items [][]byte) {
		var content []byte
		if len(items) > 0 {
			content = concat(append([][]byte{U32(uint32(len(items)))}, items...)...)
		}
		section(id, content)
	}
	vec(1, m.types)
	vec(2, m.imports)
	vec(3, m.funcs)
	section(5, m.memory)
	vec(7, m.exports)
	section(8, m.start)
	vec(10, m.bodies)
	section(11, m.data)
	for _, c := range m.customs {
		section(0, c)
	}
	return out
}

// CustomSection returns a custom section, to be appended to a module.
func CustomSection(name string, content []byte) []byte {
	return concat([]byte{0}, vecBytes(concat(str(name), content)))
}

// Const returns a module whose export f returns n.
func Const(n int32) []byte {
	var m Module
	m.Func(m.Type(nil, []byte{I32}), "f", concat([]byte{0x41}, S32(n))...)
	return m.Bytes()
}

// Sum returns a module of n functions whose export f returns 1+2+…+n + seed: each
// adds its number to what the next returns. It stands for a module of some size.
func Sum(n int, seed int32) []byte {
	var m Module
	t := m.Type(nil, []byte{I32})
	for i := range n {
		export := ""
		if i == 0 {
			export = "f"
		}
		body := concat([]byte{0x41}, S32(int32(i+1)))
		if i+1 < n {
			body = concat(body, []byte{0x10}, U32(uint32(i+1)), []byte{0x6a})
		} else {
			body = concat(body, []byte{0x41}, S32(seed), []byte{0x6a})
		}
		m.Func(t, export, body...)
	}
	return m.Bytes()
}

// U32 encodes an unsigned number.
func U32(v uint32) []byte { return binary.AppendUvarint(nil, uint64(v)) }

// S32 encodes a signed number.
func S32(v int32) []byte {
	var b []byte
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if (v == 0 && c&0x40 == 0) || (v == -1 && c&0x40 != 0) {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

func str(s string) []byte { return vecBytes([]byte(s)) }

func vecBytes(b []byte) []byte { return concat(U32(uint32(len(b))), b) }

func concat(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}
