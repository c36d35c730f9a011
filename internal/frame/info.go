package frame

import "time"

// fields are those of modcache.Info, whose fingerprints are of type F.
type fields[F ~[32]byte] = struct {
	Engine      string
	Module      F
	Name        string
	WasmSize    int64
	CompileTime time.Duration
	Created     time.Time
}

// info is modcache.Info, which this package can't import. The compiler refuses whatever
// has other fields.
type info[F ~[32]byte] interface{ ~fields[F] }

// MetaOf returns what a frame says about an artifact with that modcache.Info.
func MetaOf[I info[F], F ~[32]byte](key [32]byte, i I) Meta {
	v := fields[F](i)
	return Meta{Key: key, Engine: v.Engine, Module: v.Module, Name: v.Name, WasmSize: v.WasmSize, CompileTime: v.CompileTime, Created: v.Created}
}

// InfoOf is the inverse of MetaOf, but for times that can't be.
func InfoOf[I info[F], F ~[32]byte](m Meta) I {
	return I(fields[F]{Engine: m.Engine, Module: m.Module, Name: m.Name, WasmSize: m.WasmSize, CompileTime: m.CompileTime, Created: KnownTime(m.Created)})
}

// GivesWay reports whether an entry of that module, and of a module of so many bytes, gives way to another that is added under
// its key: an alias, by which a Cache finds the code of a module under another key, to code, or to an alias that leads elsewhere. What it
// leads to may be gone, and whoever adds another knows of code. Of code that a Cache has compiled for a module, it knows the
// module's size.
func GivesWay(module [32]byte, size int64, added [32]byte, addedSize int64) bool {
	return IsAlias(module, size) && (addedSize > 0 || added != [32]byte{} && added != module)
}

// IsAlias reports whether an entry of that module, and of a module of so many bytes, is an alias.
func IsAlias(module [32]byte, size int64) bool { return module != [32]byte{} && size == 0 }

// KnownTime returns t, or zero for a time that has no form in JSON: what is in files may be any.
func KnownTime(t time.Time) time.Time {
	if year := t.Year(); year < 0 || year > 9999 {
		return time.Time{}
	}
	return t
}
