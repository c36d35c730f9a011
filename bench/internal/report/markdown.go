package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// Full writes everything, for a file in the directory that the charts are in.
func (r Report) Full(w io.Writer, command string) {
	fmt.Fprintf(w, "# Measurements\n\nWritten by `%s` in the directory `bench`. [results.json](results.json) has every sample.\n\n", command)
	fmt.Fprintf(w, "Machine: %s.\n\n", r.Machine)
	fmt.Fprintln(w, "The sides of a comparison take turns within one run, round after round. Shown are the median, the quartiles,")
	fmt.Fprintln(w, "and the ratio of the median to that of the row marked 1. Rows of modcache are bold.")
	fmt.Fprintln(w)
	for _, p := range r.Parts {
		p.section(w)
	}
	fmt.Fprint(w, "## Where modcache loses\n\n")
	for _, p := range r.Parts {
		for _, lost := range p.losses(true) {
			fmt.Fprintf(w, "- %s, %s.\n", p.Title, lost)
		}
	}
}

func (p Part) section(w io.Writer) {
	fmt.Fprintf(w, "## %s\n\n%s\n\n", p.Title, p.About)
	if p.Quick {
		fmt.Fprint(w, "**A quick run: these figures show that the comparison works, and little else.**\n\n")
	}
	if p.Error != "" {
		fmt.Fprintf(w, "**This part failed:**\n\n```\n%s\n```\n\n", strings.TrimSpace(p.Error))
	}
	if p.Charted() {
		fmt.Fprintf(w, "%s\n\n", p.Picture(""))
	}
	if len(p.Cases) > 0 {
		p.table(w)
	}
	fmt.Fprintf(w, "Measured %s in %.0f s", p.Begin.UTC().Format("2006-01-02 15:04 MST"), p.Took)
	if p.Commit != "" {
		fmt.Fprintf(w, ", commit %s", p.Commit)
	}
	if p.Load > 0 {
		fmt.Fprintf(w, ", load average %s at the start", number(p.Load))
	}
	fmt.Fprint(w, ".\n\n")
}

// Picture is the HTML that shows the part's chart, from files under that path.
func (p Part) Picture(path string) string {
	return fmt.Sprintf(`<picture><source media="(prefers-color-scheme: dark)" srcset="%[1]s%[2]s-dark.svg"><img alt="%[3]s" src="%[1]s%[2]s.svg"></picture>`,
		path, p.Name, strings.ReplaceAll(p.Title, `"`, "&quot;"))
}

// Charted says whether the part has anything to draw.
func (p Part) Charted() bool {
	return slices.ContainsFunc(p.Cases, func(c Case) bool { return c.Chart })
}

func (p Part) table(w io.Writer) {
	var figures []string
	for _, c := range p.Cases {
		for _, r := range c.Rows {
			for _, f := range r.Figures {
				if !slices.Contains(figures, f.Name) {
					figures = append(figures, f.Name)
				}
			}
		}
	}
	fmt.Fprint(w, "| | | median | quartiles | ratio |")
	for _, f := range figures {
		fmt.Fprintf(w, " %s |", cell(f))
	}
	fmt.Fprintf(w, "\n|---|---|---:|---:|---:|%s\n", strings.Repeat("---:|", len(figures)))
	for _, c := range p.Cases {
		for i, r := range c.Rows {
			name := ""
			if i == 0 {
				name = cell(c.Name)
			}
			fmt.Fprintf(w, "| %s | %s | %s | %s … %s | %s |", name, r.label(), quantity(r.Median(), c.Unit),
				quantity(Quantile(r.Samples, 0.25), c.Unit), quantity(Quantile(r.Samples, 0.75), c.Unit), c.ratio(r))
			for _, name := range figures {
				fmt.Fprintf(w, " %s |", r.figure(name))
			}
			fmt.Fprintln(w)
		}
	}
	fmt.Fprintln(w)
}

func (r Row) label() string {
	if r.Role == Ours {
		return "**" + cell(r.Side) + "**"
	}
	return cell(r.Side)
}

func (r Row) figure(name string) string {
	for _, f := range r.Figures {
		if f.Name == name {
			return number(f.Value)
		}
	}
	return ""
}

// ratio is the row's median in terms of the reference's.
func (c *Case) ratio(r Row) string {
	reference := c.Row(c.Reference)
	if reference == nil {
		return ""
	}
	return number(r.Median() / reference.Median())
}

// cell writes text that has no markup.
func cell(s string) string { return strings.NewReplacer("|", `\|`, "*", `\*`).Replace(s) }

// Summary writes the section for the project's README: in each case of note
// the best of modcache beside the best of the others, and wherever modcache is
// slower or larger.
func (r Report) Summary(w io.Writer) {
	fmt.Fprintf(w, "%s. Medians; every row and its spread are in [docs/bench](docs/bench/README.md).\n\n", r.Machine)
	for _, p := range r.Parts {
		if p.Name == "warmstart" && p.Charted() {
			fmt.Fprintf(w, "%s\n\n", p.Picture("docs/bench/"))
		}
	}
	fmt.Fprint(w, "| | modcache | best other | ratio |\n|---|---:|---:|---:|\n")
	for _, p := range r.Parts {
		for _, c := range p.Cases {
			ours, peer := c.Best(Ours), c.Best(Peer)
			if !c.Headline || ours == nil || peer == nil {
				continue
			}
			fmt.Fprintf(w, "| %s: %s | %s, %s | %s, %s | %s |\n", p.Title, cell(c.Name),
				cell(short(ours.Side)), quantity(ours.Median(), c.Unit), cell(peer.Side), quantity(peer.Median(), c.Unit),
				number(ours.Median()/peer.Median()))
		}
	}
	for _, p := range r.Parts {
		switch {
		case p.Error != "":
			fmt.Fprintf(w, "\n**%s failed and is incomplete.**\n", p.Title)
		case p.Quick:
			fmt.Fprintf(w, "\n**%s is from a quick run, whose figures mean little.**\n", p.Title)
		}
	}
	title := "\nWhere modcache loses:\n\n"
	for _, p := range r.Parts {
		if lost := p.losses(false); len(lost) > 0 {
			fmt.Fprintf(w, "%s- %s: %s.\n", title, p.Title, strings.Join(lost, "; "))
			title = ""
		}
	}
}

// short leaves out what goes without saying in a column of modcache's sides.
func short(side string) string {
	return strings.TrimPrefix(strings.TrimPrefix(side, "modcache, "), "modcache.")
}

// noise is the least difference that counts as a loss.
const noise = 0.02

// losses lists every row of modcache that is worse than the best of the others
// at the same work, and, if asked for, every further figure that is worse than the reference's.
func (p Part) losses(figures bool) (lost []string) {
	for _, c := range p.Cases {
		peer, reference := c.Best(Peer), c.Row(c.Reference)
		for _, row := range c.Rows {
			if row.Role != Ours {
				continue
			}
			if peer != nil && worse(row.Median(), peer.Median(), c.Higher) {
				lost = append(lost, fmt.Sprintf("%s: %s %s, %s %s", cell(c.Name),
					cell(row.Side), quantity(row.Median(), c.Unit), cell(peer.Side), quantity(peer.Median(), c.Unit)))
			}
			if !figures || reference == nil || reference.Role != Peer {
				continue
			}
			for _, f := range row.Figures {
				i := slices.IndexFunc(reference.Figures, func(g Figure) bool { return g.Name == f.Name })
				if i >= 0 && worse(f.Value, reference.Figures[i].Value, f.Higher) {
					lost = append(lost, fmt.Sprintf("%s, %s: %s %s, %s %s", cell(c.Name), f.Name,
						cell(row.Side), number(f.Value), cell(reference.Side), number(reference.Figures[i].Value)))
				}
			}
		}
	}
	return lost
}

func worse(ours, theirs float64, higher bool) bool {
	return !better(ours, theirs, higher) && math.Abs(ours-theirs) > noise*math.Abs(theirs)
}
