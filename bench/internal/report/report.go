// Package report is what the comparisons found: how it is kept, summarised and
// written down.
package report

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Report is the outcome of one run, and what results.json holds.
type Report struct {
	Machine Machine `json:"machine"`
	Parts   []Part  `json:"parts"`
}

// Machine says where the figures come from. Figures of two different machines
// don't belong in one report.
type Machine struct {
	CPU    string `json:"cpu"`
	CPUs   int    `json:"cpus"`
	RAM    string `json:"ram,omitempty"`
	OS     string `json:"os"`
	Go     string `json:"go"`
	Wazero string `json:"wazero"`
}

func (m Machine) String() string {
	s := fmt.Sprintf("%s, %d CPUs", m.CPU, m.CPUs)
	if m.RAM != "" {
		s += ", " + m.RAM
	}
	return fmt.Sprintf("%s, %s, %s, wazero %s", s, m.OS, m.Go, m.Wazero)
}

// Part is one comparison.
type Part struct {
	Name   string    `json:"name"`
	Title  string    `json:"title"`
	About  string    `json:"about"` // how it is measured
	Begin  time.Time `json:"begin"`
	Took   float64   `json:"took_s"`
	Load   float64   `json:"load"` // on the machine when the part began, 0 if not known
	Commit string    `json:"commit,omitempty"`
	Quick  bool      `json:"quick,omitempty"` // too short for its figures to mean much
	Error  string    `json:"error,omitempty"` // why Cases is incomplete
	Cases  []Case    `json:"cases,omitempty"`
}

// Case is one piece of work that all its rows do.
type Case struct {
	Name      string `json:"name"`
	Unit      string `json:"unit"`
	Higher    bool   `json:"higher_is_better,omitempty"`
	Reference string `json:"reference,omitempty"` // the side that ratios are to
	Chart     bool   `json:"chart,omitempty"`     // worth a place in the chart
	Headline  bool   `json:"headline,omitempty"`  // worth one in the summary
	Rows      []Row  `json:"rows"`
}

// Role is what a side is in a comparison.
type Role string

// Ours are the sides to be judged, Peers those to be judged by. A Yardstick
// does less work than the others, and is there to show what the rest costs.
const (
	Ours      Role = "modcache"
	Peer      Role = "peer"
	Yardstick Role = "yardstick"
)

// Row is one side of a case.
type Row struct {
	Side    string
	Role    Role
	Aside   bool      // so slow that its bar would hide the others
	Samples []float64 // one for each round
	Figures []Figure  // what else was measured
}

// Figure is a further measurement of a row.
type Figure struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Higher bool    `json:"higher_is_better,omitempty"`
}

// Median returns the median of the samples.
func (r Row) Median() float64 { return Quantile(r.Samples, 0.5) }

// row is what JSON shows of a Row: with what readers would have to work out.
type row struct {
	Side          string    `json:"side"`
	Role          Role      `json:"role"`
	Aside         bool      `json:"aside,omitempty"`
	Median        float64   `json:"median"`
	LowerQuartile float64   `json:"lower_quartile"`
	UpperQuartile float64   `json:"upper_quartile"`
	Samples       []float64 `json:"samples"`
	Figures       []Figure  `json:"figures,omitempty"`
}

// MarshalJSON implements [json.Marshaler].
func (r Row) MarshalJSON() ([]byte, error) {
	return json.Marshal(row{r.Side, r.Role, r.Aside,
		r.Median(), Quantile(r.Samples, 0.25), Quantile(r.Samples, 0.75), r.Samples, r.Figures})
}

// UnmarshalJSON implements [json.Unmarshaler].
func (r *Row) UnmarshalJSON(b []byte) error {
	var v row
	err := json.Unmarshal(b, &v)
	*r = Row{v.Side, v.Role, v.Aside, v.Samples, v.Figures}
	return err
}

// Add notes a sample of a side, which gets a row if it hasn't got one.
func (c *Case) Add(side string, role Role, sample float64) *Row {
	i := slices.IndexFunc(c.Rows, func(r Row) bool { return r.Side == side })
	if i < 0 {
		i = len(c.Rows)
		c.Rows = append(c.Rows, Row{Side: side, Role: role})
	}
	c.Rows[i].Samples = append(c.Rows[i].Samples, sample)
	return &c.Rows[i]
}

// Row returns the row of a side, or nil.
func (c *Case) Row(side string) *Row {
	for i := range c.Rows {
		if c.Rows[i].Side == side {
			return &c.Rows[i]
		}
	}
	return nil
}

// Best returns the row of that role with the best median, or nil.
func (c *Case) Best(role Role) (best *Row) {
	for i, r := range c.Rows {
		if r.Role == role && (best == nil || c.better(r.Median(), best.Median())) {
			best = &c.Rows[i]
		}
	}
	return best
}

func (c *Case) better(a, b float64) bool { return better(a, b, c.Higher) }

func better(a, b float64, higher bool) bool {
	if higher {
		return a > b
	}
	return a < b
}

// Merge returns the parts of this run together with those of an older one, on the
// same machine, that were not run again. A report of another machine gives way.
func (r Report) Merge(old Report) Report {
	if old.Machine != r.Machine {
		return r
	}
	merged := slices.Clone(old.Parts)
	for _, p := range r.Parts {
		i := slices.IndexFunc(merged, func(o Part) bool { return o.Name == p.Name })
		if i < 0 {
			merged = append(merged, p)
		} else {
			merged[i] = p
		}
	}
	r.Parts = merged
	return r
}
