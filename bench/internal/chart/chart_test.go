package chart

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

var sample = Chart{
	Title:    "Warm start <&> more",
	Subtitle: "Medians; \"quoted\"",
	Groups: []Group{
		{Name: "small, 1.4 MB", Note: "less is better", Bars: []Bar{
			{Label: "theirs", Value: 12.4, Text: "12.4 ms"},
			{Label: "ours", Value: 2, Text: "2.00 ms", Ours: true},
			{Label: "nothing at all", Value: 0, Text: "0 ms"},
		}},
		{Name: "all zero", Bars: []Bar{{Label: "zero", Value: 0, Text: "0"}}},
		{Name: "empty"},
	},
}

func TestGolden(t *testing.T) {
	for name, theme := range map[string]Theme{"light.svg": Light, "dark.svg": Dark} {
		file := filepath.Join("testdata", name)
		got := sample.SVG(theme)
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		// A checkout may have changed the ends of lines.
		if want = bytes.ReplaceAll(want, []byte("\r\n"), []byte("\n")); !bytes.Equal(got, want) {
			t.Errorf("%s differs; look at it, then run go test -update ./internal/chart\n%s", name, got)
		}
	}
}

// TestDrawing checks what can be said of any chart: it is XML, and nothing
// leaves the picture.
func TestDrawing(t *testing.T) {
	long := Chart{Title: "t", Groups: []Group{{Name: "g", Bars: []Bar{{Label: strings.Repeat("long ", 40), Value: 1, Text: "1"}, {Value: 1e300, Text: "much"}}}}}
	for _, c := range []Chart{sample, long, {}} {
		svg := c.SVG(Light)
		d := xml.NewDecoder(bytes.NewReader(svg))
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%v in\n%s", err, svg)
			}
			element, ok := token.(xml.StartElement)
			if !ok || element.Name.Local != "rect" {
				continue
			}
			var x, w float64
			for _, a := range element.Attr {
				v := number(t, a)
				switch a.Name.Local {
				case "x":
					x = v
				case "width":
					w = v
				}
			}
			if x < 0 || w <= 0 || x+w > width {
				t.Errorf("a rectangle from %g, %g wide, in %d", x, w, width)
			}
		}
	}
}

func number(t *testing.T, a xml.Attr) (v float64) {
	if a.Name.Local == "x" || a.Name.Local == "width" {
		var err error
		if v, err = strconv.ParseFloat(a.Value, 64); err != nil {
			t.Error(err)
		}
	}
	return v
}
