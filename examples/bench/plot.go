package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"strconv"
)

// bar is a row of a plot: parts that follow one another.
type bar struct {
	label string
	parts []float64
}

func (b bar) sum() (sum float64) {
	for _, p := range b.parts {
		sum += p
	}
	return sum
}

// Measures of a plot, in pixels.
const (
	plotLeft, plotRight = 250, 110 // for labels, and for sums
	plotWidth           = 900
	plotTop, plotBottom = 46, 44
	plotRow, plotBar    = 26, 18
)

// plotBars draws horizontal bars as an SVG document. The first part of a bar is
// dark, those that follow are lighter by turns; the sum stands at the end.
func plotBars(title, unit string, bars []bar) []byte {
	most := 0.0
	for _, b := range bars {
		most = max(most, b.sum())
	}
	tick := tickOf(most)
	most = max(math.Ceil(most/tick)*tick, tick)
	x := func(v float64) float64 { return plotLeft + v/most*(plotWidth-plotLeft-plotRight) }
	height := plotTop + plotRow*len(bars) + plotBottom
	bottom := height - plotBottom
	var s bytes.Buffer
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", plotWidth, height)
	fmt.Fprintf(&s, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", plotWidth, height)
	fmt.Fprintf(&s, `<text x="%d" y="24" font-size="15">%s</text>`+"\n", 12, escape(title))
	for v := 0.0; v <= most*1.001; v += tick {
		fmt.Fprintf(&s, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="#ddd"/>`, x(v), x(v), plotTop-4, bottom)
		fmt.Fprintf(&s, `<text x="%.1f" y="%d" text-anchor="middle" fill="#555">%s</text>`+"\n", x(v), bottom+16, strconv.FormatFloat(v, 'g', 4, 64))
	}
	fmt.Fprintf(&s, `<text x="%.1f" y="%d" text-anchor="middle" fill="#555">%s</text>`+"\n", x(most/2), bottom+34, escape(unit))
	for i, b := range bars {
		y, from := plotTop+plotRow*i, 0.0
		fmt.Fprintf(&s, `<text x="%d" y="%d" text-anchor="end">%s</text>`, plotLeft-8, y+plotBar-4, escape(b.label))
		for n, p := range b.parts {
			colour := "#1f4e79"
			if n > 0 {
				colour = []string{"#9dc3e6", "#6fa8dc"}[n%2]
			}
			fmt.Fprintf(&s, `<rect x="%.2f" y="%d" width="%.2f" height="%d" fill="%s"/>`, x(from), y, x(from+p)-x(from), plotBar, colour)
			from += p
		}
		fmt.Fprintf(&s, `<text x="%.1f" y="%d">%.1f</text>`+"\n", x(from)+6, y+plotBar-4, from)
	}
	s.WriteString("</svg>\n")
	return s.Bytes()
}

// tickOf returns a round distance of which there are five or so up to most.
func tickOf(most float64) float64 {
	if most <= 0 {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(most/5)))
	for _, f := range []float64{1, 2, 5} {
		if most/(unit*f) <= 6 {
			return unit * f
		}
	}
	return unit * 10
}

func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a buffer takes everything
	return b.String()
}
