// Package chart draws horizontal bars as SVG, in colours for light and for dark
// pages.
package chart

import (
	"bytes"
	"fmt"
	"html"
	"unicode/utf8"
)

// Chart is groups of bars under a title. Each group has a scale of its own.
type Chart struct {
	Title, Subtitle string
	Groups          []Group
}

// Group is bars that can be compared with each other.
type Group struct {
	Name string
	Note string // after the name, in a quieter colour
	Bars []Bar
}

// Bar is one value, which may not be negative, and how it is written.
type Bar struct {
	Label string
	Value float64
	Text  string
	Ours  bool // drawn in the colour that stands out
}

// Theme is the colours of a chart.
type Theme struct {
	Background, Text, Quiet, Line, Bar, Ours string
}

// Light and Dark are for pages of those colours. Text has a contrast of at
// least 4.5 to its background, bars of 3.
var (
	Light = Theme{Background: "#ffffff", Text: "#1f2328", Quiet: "#59636e", Line: "#d1d9e0", Bar: "#848d97", Ours: "#0969da"}
	Dark  = Theme{Background: "#0d1117", Text: "#f0f6fc", Quiet: "#9198a1", Line: "#3d444d", Bar: "#6e7681", Ours: "#4493f8"}
)

// Measures of the drawing, in pixels.
const (
	width      = 820
	margin     = 20
	minLabels  = 120 // the column of the labels is as wide as the longest, within these
	maxLabels  = 330
	texts      = 110 // room for the text after the longest bar
	rowHeight  = 22
	barHeight  = 14
	groupSpace = 38
	header     = 64
	charWidth  = 7.0 // of the bold label font, on average and a little more
)

// SVG draws the chart.
func (c Chart) SVG(t Theme) []byte {
	height := header + margin/2
	longest := 0
	for _, g := range c.Groups {
		height += groupSpace + rowHeight*len(g.Bars)
		for _, b := range g.Bars {
			longest = max(longest, utf8.RuneCountInString(b.Label))
		}
	}
	labels := min(max(int(charWidth*float64(longest))+10, minLabels), maxLabels)
	var w bytes.Buffer
	fmt.Fprintf(&w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-labelledby="title desc" font-family="-apple-system,'Segoe UI',Helvetica,Arial,sans-serif" font-size="12">`+"\n",
		width, height, width, height)
	fmt.Fprintf(&w, "<title id=\"title\">%s</title>\n<desc id=\"desc\">%s</desc>\n", escape(c.Title), escape(c.Subtitle))
	fmt.Fprintf(&w, `<rect width="%d" height="%d" fill="%s"/>`+"\n", width, height, t.Background)
	text(&w, margin, 28, `font-size="17" font-weight="600"`, t.Text, c.Title)
	text(&w, margin, 48, "", t.Quiet, c.Subtitle)
	y := header
	for _, g := range c.Groups {
		g.draw(&w, t, y, labels)
		y += groupSpace + rowHeight*len(g.Bars)
	}
	w.WriteString("</svg>\n")
	return w.Bytes()
}

func (g Group) draw(w *bytes.Buffer, t Theme, y, labels int) {
	fmt.Fprintf(w, `<line x1="%d" y1="%d" x2="%d" y2="%d" stroke="%s"/>`+"\n", margin, y, width-margin, y, t.Line)
	fmt.Fprintf(w, `<text x="%d" y="%d" fill="%s"><tspan font-weight="600">%s</tspan>`, margin, y+22, t.Text, escape(g.Name))
	if g.Note != "" {
		fmt.Fprintf(w, `<tspan dx="8" fill="%s">%s</tspan>`, t.Quiet, escape(g.Note))
	}
	w.WriteString("</text>\n")
	most := 0.0
	for _, b := range g.Bars {
		most = max(most, b.Value)
	}
	left, room := margin+labels, width-2*margin-labels-texts
	for i, b := range g.Bars {
		top := y + groupSpace - 6 + rowHeight*i
		fill, weight := t.Bar, ""
		if b.Ours {
			fill, weight = t.Ours, `font-weight="600"`
		}
		length := 1.0 // a bar that is too short to see is still there
		if most > 0 {
			length = max(length, b.Value/most*float64(room))
		}
		text(w, left-8, top+11, `text-anchor="end" `+weight, t.Text, b.Label)
		fmt.Fprintf(w, `<rect x="%d" y="%d" width="%.1f" height="%d" rx="2" fill="%s"/>`+"\n", left, top, length, barHeight, fill)
		text(w, left+int(length)+6, top+11, weight, t.Text, b.Text)
	}
}

func text(w *bytes.Buffer, x, y int, attributes, fill, s string) {
	if attributes != "" {
		attributes = " " + attributes
	}
	fmt.Fprintf(w, `<text x="%d" y="%d"%s fill="%s">%s</text>`+"\n", x, y, attributes, fill, escape(s))
}

func escape(s string) string { return html.EscapeString(s) }
