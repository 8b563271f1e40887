//go:build linux

package main

import (
	"fmt"
	"math"
	"strings"
)

// chart is a drawing of curves over two axes that start at zero, or, on a
// logarithmic axis, at a power of ten.
type chart struct {
	title  string
	x, y   axis
	curves []curveOf
}

type axis struct {
	label string
	unit  string
	log   bool
	max   float64 // 0: from the data
}

type curveOf struct {
	name   string
	colour string
	points []point
}

type point struct{ x, y float64 }

const (
	width, height            = 760, 420
	left, right, top, bottom = 64, 140, 44, 56
)

func (c chart) svg() string {
	xs, ys := c.x.scale(c.curves, func(p point) float64 { return p.x }), c.y.scale(c.curves, func(p point) float64 { return p.y })
	px := func(v float64) float64 { return left + xs.at(v)*(width-left-right) }
	py := func(v float64) float64 { return height - bottom - ys.at(v)*(height-top-bottom) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" role="img" aria-label="%s">`+"\n", width, height, c.title)
	b.WriteString(`<rect width="100%" height="100%" fill="#ffffff"/>` + "\n")
	fmt.Fprintf(&b, `<text x="%d" y="24" font-size="14" font-weight="bold" fill="#222">%s</text>`+"\n", left, c.title)
	for _, t := range xs.ticks {
		fmt.Fprintf(&b, `<path d="M%.1f %dV%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle" fill="#444">%s</text>`+"\n", px(t), top, height-bottom, px(t), height-bottom+18, number(t)+c.x.unit)
	}
	for _, t := range ys.ticks {
		fmt.Fprintf(&b, `<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end" fill="#444">%s</text>`+"\n", left, py(t), width-right, left-6, py(t)+4, number(t)+c.y.unit)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle" fill="#444">%s</text>`+"\n", left+(width-left-right)/2, height-14, c.x.label)
	for i, curve := range c.curves {
		colour := curve.colour
		var path strings.Builder
		for j, p := range curve.points {
			fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(j, 1)], px(p.x), py(p.y))
		}
		fmt.Fprintf(&b, `<path d="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", path.String(), colour)
		y := top + 12 + i*20
		fmt.Fprintf(&b, `<path d="M%d %dh22" stroke="%s" stroke-width="3"/><text x="%d" y="%d" fill="#222">%s</text>`+"\n", width-right+14, y, colour, width-right+42, y+4, curve.name)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// number writes a tick.
func number(v float64) string {
	if v >= 1 || v == 0 {
		return thousands(int(math.Round(v)))
	}
	return fmt.Sprintf("%.1f", v)
}

// scaled is an axis with its range.
type scaled struct {
	from, to float64
	log      bool
	ticks    []float64
}

func (a axis) scale(curves []curveOf, of func(point) float64) scaled {
	low, high := math.Inf(1), a.max
	for _, c := range curves {
		for _, p := range c.points {
			low, high = min(low, of(p)), max(high, of(p))
		}
	}
	if high <= 0 {
		high = 1
	}
	if a.log {
		from, to := math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
		s := scaled{from: from, to: max(to, from*10), log: true}
		for t := s.from; t <= s.to*1.01; t *= 10 {
			s.ticks = append(s.ticks, t)
		}
		return s
	}
	step := math.Pow(10, math.Floor(math.Log10(high)))
	for _, f := range []float64{0.1, 0.2, 0.25, 0.5, 1} {
		if high/(step*f) <= 8 {
			step *= f
			break
		}
	}
	s := scaled{to: math.Ceil(high/step-1e-9) * step}
	for t := 0.0; t <= s.to*1.001; t += step {
		s.ticks = append(s.ticks, t)
	}
	return s
}

// at maps a value to 0..1.
func (s scaled) at(v float64) float64 {
	if s.log {
		return math.Log10(v/s.from) / math.Log10(s.to/s.from)
	}
	return v / s.to
}
