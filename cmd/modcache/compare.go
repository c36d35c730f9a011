package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"text/tabwriter"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bytesize"
	"github.com/modcache/modcache/internal/wasmbin"
)

// comparison is what differs between two modules.
type comparison struct {
	Verdict string `json:"verdict"`
	// SameCode says that a Runtime can use the same machine code for both.
	SameCode bool          `json:"same_code"`
	Sections []sectionDiff `json:"sections,omitempty"`
	// Bodies of functions that differ, counted if both modules have as many.
	Bodies      int `json:"bodies_that_differ"`
	FirstBody   int `json:"first_function_that_differs"` // its index, imports included
	TotalBodies int `json:"bodies"`

	debug bool // one of the modules has DWARF sections
}

type sectionDiff struct {
	Name string `json:"name"`
	A    int    `json:"a_bytes"` // of the content; -1 if it isn't there
	B    int    `json:"b_bytes"`
	How  string `json:"how"`
}

const (
	onlyInFirst  = "only in the first"
	onlyInSecond = "only in the second"
	spelling     = "spelled differently, means the same"
	different    = "different"
)

// section is one section of a module. Custom ones have a name each.
type section struct {
	id      byte
	content []byte
}

var sectionNames = [...]string{
	"custom", "type", "import", "function", "table", "memory", "global", "export", "start", "element", "code", "data",
	"data count", "tag",
}

const codeSection = 10

// sections returns the sections of a module by name; a name that comes again gets a number.
func sections(wasm []byte) (names []string, byName map[string]section, o wasmbin.Outline, err error) {
	if o, err = wasmbin.Scan(wasm); err != nil {
		return nil, nil, o, err
	}
	byName = make(map[string]section)
	for _, s := range o.Sections {
		name := fmt.Sprintf("section %d", s.ID)
		if int(s.ID) < len(sectionNames) {
			name = sectionNames[s.ID]
		}
		if s.ID == 0 {
			name = "custom " + printable(string(s.Name))
		}
		unique := name
		for i := 2; ; i++ {
			if _, taken := byName[unique]; !taken {
				break
			}
			unique = fmt.Sprintf("%s #%d", name, i)
		}
		names = append(names, unique)
		byName[unique] = section{id: s.ID, content: wasm[s.Data:s.End]}
	}
	return names, byName, o, nil
}

func compare(a, b []byte) (*comparison, error) {
	if bytes.Equal(a, b) {
		return &comparison{Verdict: "the modules are identical", SameCode: true}, nil
	}
	namesA, inA, outline, err := sections(a)
	if err != nil {
		return nil, err
	}
	namesB, inB, outlineB, err := sections(b)
	if err != nil {
		return nil, err
	}
	canonA, canonB := canonical(a), canonical(b)
	c := &comparison{debug: outline.HasDebug || outlineB.HasDebug}
	custom, other := 0, 0
	for _, name := range namesA {
		sa := inA[name]
		sb, both := inB[name]
		diff := sectionDiff{Name: name, A: len(sa.content), B: len(sb.content), How: different}
		switch {
		case both && bytes.Equal(sa.content, sb.content):
			continue
		case !both:
			diff.B, diff.How = -1, onlyInFirst
		case sa.id != 0 && canonA != nil && canonB != nil && bytes.Equal(canonA[name].content, canonB[name].content):
			diff.How = spelling
		case sa.id == codeSection:
			c.Bodies, c.FirstBody, c.TotalBodies = compareBodies(sa.content, sb.content)
			if c.Bodies > 0 {
				c.FirstBody += int(outline.ImportedFuncs)
			}
		}
		if sa.id == 0 {
			custom++
		} else {
			other++
		}
		c.Sections = append(c.Sections, diff)
	}
	for _, name := range namesB {
		if _, both := inA[name]; !both {
			c.Sections = append(c.Sections, sectionDiff{Name: name, A: -1, B: len(inB[name].content), How: onlyInSecond})
			if inB[name].id == 0 {
				custom++
			} else {
				other++
			}
		}
	}
	c.judge(a, b, custom, other)
	return c, nil
}

// canonical returns the sections of the canonical encoding, or nil if there is
// none.
func canonical(wasm []byte) map[string]section {
	b, err := modcache.Canonicalize(wasm)
	if err != nil {
		return nil
	}
	_, byName, _, err := sections(b)
	if err != nil {
		return nil
	}
	return byName
}

// judge sums up, with the number of sections that differ, custom and others.
func (c *comparison) judge(a, b []byte, custom, other int) {
	fa, errA := modcache.Canonical(a)
	fb, errB := modcache.Canonical(b)
	c.SameCode = errA == nil && errB == nil && fa == fb
	switch {
	case c.SameCode && other == 0 && custom == 0:
		c.Verdict = "the modules say the same, spelled differently outside of their sections' contents"
	case c.SameCode && other == 0:
		c.Verdict = "the modules differ in custom sections only: names and notes, not code"
	case c.SameCode && custom == 0:
		c.Verdict = "the modules say the same, spelled differently"
	case c.SameCode:
		c.Verdict = "the modules say the same, spelled differently and with other custom sections"
	case errA != nil || errB != nil:
		c.Verdict = "the modules differ; at least one has no canonical encoding that tells whether only in spelling"
	default:
		c.Verdict = "the modules are different programs"
	}
}

// compareBodies returns how many of the bodies of two code sections differ and
// which is the first, or zeros if there aren't as many in both.
func compareBodies(a, b []byte) (differ, first, total int) {
	inA, okA := bodies(a)
	inB, okB := bodies(b)
	if !okA || !okB || len(inA) != len(inB) {
		return 0, 0, 0
	}
	for i := range inA {
		if !bytes.Equal(inA[i], inB[i]) {
			if differ++; differ == 1 {
				first = i
			}
		}
	}
	return differ, first, len(inA)
}

// bodies splits the content of a code section.
func bodies(content []byte) (found [][]byte, ok bool) {
	n, content, ok := cutNumber(content)
	for i := uint64(0); ok && i < n; i++ {
		var size uint64
		if size, content, ok = cutNumber(content); !ok || size > uint64(len(content)) {
			return nil, false
		}
		found = append(found, content[:size])
		content = content[size:]
	}
	return found, ok
}

func cutNumber(b []byte) (n uint64, rest []byte, ok bool) {
	n, size := binary.Uvarint(b)
	if size <= 0 {
		return 0, nil, false
	}
	return n, b[size:], true
}

func (c *comparison) print(s *streams) error {
	fmt.Fprintf(s.out, "\n%s\n", c.Verdict)
	if c.SameCode && len(c.Sections) > 0 {
		sharing := "a Runtime uses the same machine code for both"
		if c.debug {
			sharing += ", but only with -no-debug-info: they have DWARF sections, which refer to the exact code"
		}
		fmt.Fprintln(s.out, sharing)
	}
	if len(c.Sections) == 0 {
		return nil
	}
	size := func(n int) string {
		if n < 0 {
			return "-"
		}
		return bytesize.Format(int64(n))
	}
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nSECTION\tFIRST\tSECOND\t")
	for _, d := range c.Sections {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", d.Name, size(d.A), size(d.B), d.How)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if c.Bodies > 0 {
		_, err := fmt.Fprintf(s.out, "\n%d of %s of functions differ, first that of function %d\n", c.Bodies, plural(c.TotalBodies, "body", "bodies"), c.FirstBody)
		return err
	}
	return nil
}
