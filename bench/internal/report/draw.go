package report

import (
	"fmt"
	"strings"

	"github.com/modcache/modcache/bench/internal/chart"
)

// Draw returns the chart of the part's charted cases.
func (p Part) Draw(m Machine) chart.Chart {
	c := chart.Chart{Title: p.Title, Subtitle: fmt.Sprintf("Medians; each group has its own scale. %s", m)}
	if p.Quick {
		c.Subtitle = "A QUICK RUN, of no meaning. " + c.Subtitle
	}
	for _, w := range p.Cases {
		if !w.Chart {
			continue
		}
		g := chart.Group{Name: w.Name}
		notes := []string{"less is better"}
		if w.Higher {
			notes[0] = "more is better"
		}
		for _, r := range w.Rows {
			text := quantity(r.Median(), w.Unit)
			if r.Aside {
				notes = append(notes, r.Side+": "+text)
				continue
			}
			g.Bars = append(g.Bars, chart.Bar{Label: r.Side, Value: max(r.Median(), 0), Text: text, Ours: r.Role == Ours})
		}
		g.Note = strings.Join(notes, "; ")
		c.Groups = append(c.Groups, g)
	}
	return c
}
