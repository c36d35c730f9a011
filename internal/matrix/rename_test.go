package matrix

import (
	"go/parser"
	"go/scanner"
	"go/token"
	"go/types"
	"path"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
)

// rename gives every unexported name in a module's Go code another one, but for names of
// packages, of what is written in assembly, and of what is linked by name. texts are the
// module's files.
func rename(t *testing.T, texts map[string]string) {
	t.Helper()
	keep := map[string]bool{"main": true, "init": true, "_": true}
	for _, name := range types.Universe.Names() {
		keep[name] = true
	}
	word := regexp.MustCompile(`[\pL_][\pL_0-9]*`)
	linked := regexp.MustCompile(`(?m)^//go:linkname.*$`)
	for name, text := range texts {
		switch path.Ext(name) {
		case ".s":
			for _, w := range word.FindAllString(text, -1) {
				keep[w] = true
			}
		case ".go":
			f, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ImportsOnly)
			require.NoError(t, err)
			keep[f.Name.Name] = true
			for _, i := range f.Imports {
				p, err := strconv.Unquote(i.Path.Value)
				require.NoError(t, err)
				keep[path.Base(p)] = true
				if i.Name != nil {
					keep[i.Name.Name] = true
				}
			}
			for _, w := range word.FindAllString(strings.Join(linked.FindAllString(text, -1), " "), -1) {
				keep[w] = true
			}
		}
	}
	for name, text := range texts {
		if path.Ext(name) != ".go" {
			continue
		}
		var out strings.Builder
		var s scanner.Scanner
		set := token.NewFileSet()
		file := set.AddFile(name, -1, len(text))
		s.Init(file, []byte(text), nil, 0)
		done := 0
		for {
			pos, tok, lit := s.Scan()
			if tok == token.EOF {
				break
			}
			if tok == token.IDENT && !keep[lit] && !unicode.IsUpper([]rune(lit)[0]) {
				end := file.Offset(pos) + len(lit)
				out.WriteString(text[done:end] + "Renamed")
				done = end
			}
		}
		texts[name] = out.String() + text[done:]
	}
}
