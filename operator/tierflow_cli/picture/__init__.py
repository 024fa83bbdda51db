"""The graph of a plan as a person wants to see it, as SVG, without a system package.

`collapse` decides which layers share a box, `boxes` what is written on them, `layout` places boxes and lines, `bands`
the tiers, `crossings` what is written between them; `scene` puts it all in place, and `draw` writes it through `svg`.
Values in, text out: no files, no clock, no randomness, so that the same plan is the same picture.
"""
